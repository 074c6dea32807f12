"""Compilation: numba's `njit` with a cache that notices edits, and the few helpers that differ without it.

Every kernel module decorates with `njit` from here. Only the entry point (`loop.py`) is cached
on disk: what it calls is compiled into it. Numba's cache looks at the file of the cached
function alone, so the folder's name is a digest of the sources that are compiled into it: one
folder per scheduler and state of the sources (see `kernel.py`).

With NUMBA_DISABLE_JIT=1 the same source runs as plain Python with bit-identical results.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from windtunnel.serving import plain

F = TypeVar("F", bound=Callable[..., Any])

config: Any = numba.config

_LEVEL: Any = config.OPT

_ANNOUNCING = threading.Lock()
_ANNOUNCED: list[Any] = []

DISABLED: bool = bool(config.DISABLE_JIT)
"""Whether the kernel runs as plain Python."""

_HERE = Path(__file__).parent
_IMPORT = re.compile(r"^from windtunnel\.serving\.([\w.]+) import", re.MULTILINE)
_MIX_1, _MIX_2, _MIX_3 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
"""No reference counts: the kernel allocates nothing, and counting its array arguments at every
call cost twenty times what the loop does."""
_INNER: dict[str, Any] = _OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def njit(function: F) -> F:
    """Compile a function of the kernel (not cached by itself)."""
    compiled: F = numba.njit(function, **_INNER)
    return compiled


def inlined(function: F) -> F:
    """Compile a function into its callers: for what is called from one place or is tiny.

    Passing a dozen arrays through a call costs more than most of these functions do.
    """
    compiled: F = numba.njit(function, forceinline=True, **_INNER)
    return compiled


def source_files(entry: Path, swapped: Mapping[str, str]) -> list[Path]:
    """The files that an entry point is compiled from: its own and what it imports from this package.

    Args:
        entry: file of the entry point.
        swapped: modules in whose place others stand (names below this package).
    """
    found: dict[Path, None] = {entry: None}
    queue = [entry]
    while queue:
        for name in _IMPORT.findall(queue.pop().read_text()):
            path = _HERE / (swapped.get(name, name).replace(".", "/") + ".py")
            if path not in found:
                found[path] = None
                queue.append(path)
    return sorted(found)


def _source_digest(function: Callable[..., Any]) -> str:
    digest = hashlib.sha256()
    for path in source_files(Path(function.__code__.co_filename), function.__globals__.get("SWAPPED", {})):
        digest.update(path.relative_to(_HERE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_folder(base: str, digest: str) -> str:
    """The user's own numba folder if there is one, else the user's cache; one folder per state of the sources."""
    if base:
        return str(Path(base) / digest)
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(caches) / "windtunnel" / "kernel" / digest)


def cached_entry(function: F) -> F:
    """Compile an entry point and keep the machine code on disk between processes."""
    if DISABLED:
        return function
    before = config.CACHE_DIR
    # Numba's cache does not tell code with bounds checks (NUMBA_BOUNDSCHECK=1) from code without.
    checks = "-bounds" if config.BOUNDSCHECK else ""
    config.CACHE_DIR = _cache_folder(before, _source_digest(function) + checks)
    try:
        compiled: F = numba.njit(function, cache=True, **_OPTIONS)
    except (RuntimeError, OSError):  # nowhere to write: compile in every process
        compiled = numba.njit(function, **_OPTIONS)
    finally:
        config.CACHE_DIR = before
    return compiled


@contextmanager
def first_call(entry: Any) -> Iterator[None]:
    """Say on stderr that a wait is coming when nothing compiled is at hand, and shorten it.

    Compiling makes millions of objects and hardly a cycle among them, so looking for cycles meanwhile
    is time lost (a twentieth of it all). LLVM's first level of optimisation takes a fifth less time than its third, and
    the loop, which has no inner loops to vectorise, runs no slower for it (`benchmarks/hot_loop.py`).
    """
    if not hasattr(entry, "signatures") or entry.signatures:
        yield
        return
    with _ANNOUNCING:  # several threads may start at once
        folder = entry.stats.cache_path
        if entry not in _ANNOUNCED and (not folder or not any(Path(folder).glob("*.nbc"))):
            print("compiling the simulator, once", file=sys.stderr, flush=True)
        _ANNOUNCED.append(entry)
    collecting = gc.isenabled()
    gc.disable()
    config.OPT = type(_LEVEL)(min(int(_LEVEL), 1))
    try:
        yield
    finally:
        config.OPT = _LEVEL
        if collecting:
            gc.enable()


def rows(array: npt.NDArray[Any], uncompiled: bool = DISABLED) -> Any:
    """The array as the kernel wants it: fields as attributes also without compilation."""
    return array.view(np.recarray) if uncompiled and array.dtype.names else array


if DISABLED:
    mix, call_hook = plain.mix, plain.call_hook

else:

    @njit
    def mix(a: Any, b: Any) -> Any:
        """A hash of two integers, never 0 (splitmix64 of a + golden * b)."""
        x = np.uint64(a) + np.uint64(_MIX_1) * np.uint64(b)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_2)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_3)
        x = x ^ (x >> np.uint64(31))
        if x == np.uint64(0):
            return np.int64(1)
        return np.int64(x)

    @intrinsic
    def call_hook(typing: Any, address: Any, request: Any, replica: Any, world: Any, a: Any, b: Any) -> Any:
        """Call a C function `double (request *, replica *, world *, int64, int64)` at an address."""

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            byte, whole = ir.IntType(8).as_pointer(), ir.IntType(64)
            kind = ir.FunctionType(ir.DoubleType(), [byte, byte, byte, whole, whole])
            pointer = builder.inttoptr(values[0], kind.as_pointer())
            records = [builder.bitcast(value, byte) for value in values[1:4]]
            return builder.call(pointer, [*records, *values[4:]])

        whole = numba.types.int64
        return numba.types.float64(whole, request, replica, world, whole, whole), generate
