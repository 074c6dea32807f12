"""Published and measured results beside predictions: readers, comparison, intervals, fits of engine overheads."""
