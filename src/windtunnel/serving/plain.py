"""The kernel's decorators without compilation: the same source as plain Python in a process that also compiles.

`kernel.kernel(..., compiled=False)` puts this module in the place of `jit`. Arithmetic is that of
the compiled kernel to the bit; records are views whose fields are attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_LOW64 = (1 << 64) - 1
_MIX_1, _MIX_2, _MIX_3 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def njit(function: F) -> F:
    """The function itself."""
    return function


inlined = cached_entry = njit


def mix(a: Any, b: Any) -> Any:
    """A hash of two integers, never 0 (splitmix64 of a + golden * b)."""
    x = (int(a) + _MIX_1 * int(b)) & _LOW64
    x = ((x ^ (x >> 30)) * _MIX_2) & _LOW64
    x = ((x ^ (x >> 27)) * _MIX_3) & _LOW64
    x ^= x >> 31
    return (x - (1 << 64) if x >> 63 else x) or 1


PYTHON_HOOKS: list[Callable[..., float]] = []
"""Hooks of plain kernels: place + 1 stands where a compiled kernel has an address."""


def call_hook(address: Any, request: Any, replica: Any, world: Any, a: Any, b: Any) -> float:
    """Call the hook of this number with the records themselves."""
    return float(PYTHON_HOOKS[int(address) - 1](request, replica, world, int(a), int(b)))
