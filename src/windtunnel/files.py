"""Write files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from windtunnel.errors import Problem


def write_atomic(path: Path | str, content: str | bytes) -> Path:
    """Write a file so that a reader, or an interruption, never sees half of it.

    The content goes to a temporary file in the same folder, which then takes the place of the
    target in one step. On any failure, Ctrl-C included, the temporary file is removed and an
    older target is left as it was.

    Args:
        path: the target; its folder must exist.
        content: text (written as UTF-8) or bytes.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    return replace_whole(path, write)


def replace_whole(path: Path | str, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file, then put it in the target's place in one step."""
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes the file private; give it what an ordinary new file would get.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def cannot_write(path: Path | str, flag: str) -> Problem | None:
    """The problem with writing to a path, found before long work is spent on its content."""
    target = Path(path)
    if target.is_dir():
        return Problem("is a folder, not a file", flag, got=str(path))
    if not target.parent.is_dir():
        return Problem("the folder does not exist", flag, got=str(target.parent))
    if not os.access(target.parent, os.W_OK):
        return Problem("the folder cannot be written to", flag, got=str(target.parent))
    return None
