"""Trace formats, one file each: `read(file, columns) -> Trace`."""
