"""Capacity: the largest request rate of the same mix at which every target holds.

The rate is bracketed on a multiplier of the workload's arrivals, the same requests with the same random
numbers each time: doubling until a target breaks (or halving until all hold), then bisection on the
logarithm. Latency under load is taken to be monotone; noise in a percentile can move the answer by about the
tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

TOLERANCE = 0.03
"""Bisection ends when the bracket is this narrow, relative."""
HIGHEST = 64.0
LOWEST = 1.0 / 64.0


@dataclass(frozen=True, slots=True)
class Bracket:
    """Where the capacity lies.

    Attributes:
        holds: largest multiplier tried at which every target holds; 0 when none does.
        breaks: smallest multiplier tried at which one breaks; infinite when none does.
    """

    holds: float
    breaks: float


def bracket(
    holds_at: Callable[[float], bool],
    start: float = 1.0,
    holds_at_start: bool | None = None,
    tolerance: float = TOLERANCE,
) -> Bracket:
    """Bracket the largest multiplier for which `holds_at` is true.

    Args:
        holds_at: whether every target holds at a multiplier of the rate.
        start: the first multiplier tried.
        holds_at_start: its answer, when already known.
        tolerance: relative width at which to stop.

    >>> found = bracket(lambda x: x < 3.0)
    >>> found.holds < 3.0 <= found.breaks
    True
    """
    first = holds_at(start) if holds_at_start is None else holds_at_start
    low, high = (start, math.inf) if first else (0.0, start)
    while math.isinf(high) and low < HIGHEST:
        step = low * (1.5 if low < 2.0 * start else 2.0)
        low, high = (step, high) if holds_at(step) else (low, step)
    while low == 0.0 and high > LOWEST:
        step = high / 2.0
        low, high = (step, high) if holds_at(step) else (low, step)
    while low > 0.0 and math.isfinite(high) and high / low > 1.0 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds_at(middle) else (low, middle)
    return Bracket(low, high)
