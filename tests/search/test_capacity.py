"""Bracketing a rate: for any threshold the bracket holds it, is as narrow as it says, and stops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.search.capacity import HIGHEST, LOWEST, TOLERANCE, bracket


@given(st.floats(LOWEST, HIGHEST), st.booleans())
def test_bracket_holds_the_threshold_and_is_narrow(threshold: float, told: bool) -> None:
    tried: list[float] = []

    def holds_at(rate: float) -> bool:
        tried.append(rate)
        return rate <= threshold

    found = bracket(holds_at, holds_at_start=threshold >= 1.0 if told else None)
    assert found.holds <= threshold < found.breaks
    if found.holds > 0.0 and math.isfinite(found.breaks):
        assert found.breaks / found.holds <= 1.0 + TOLERANCE
    assert len(tried) == len(set(tried)) <= 25
    assert not told or 1.0 not in tried


@given(st.floats(0.02, 50.0), st.floats(0.1, 10.0), st.sampled_from([0.2, 0.03, 0.005]))
def test_start_and_tolerance_are_the_callers(threshold: float, start: float, tolerance: float) -> None:
    found = bracket(lambda rate: rate < threshold, start=start, tolerance=tolerance)
    assert found.holds < threshold <= found.breaks
    if found.holds > 0.0 and math.isfinite(found.breaks):
        assert found.breaks / found.holds <= 1.0 + tolerance


def test_what_never_holds_and_what_never_breaks() -> None:
    nothing, everything = bracket(lambda rate: False), bracket(lambda rate: True)
    assert nothing.holds == 0.0
    assert nothing.breaks <= LOWEST
    assert everything.holds >= HIGHEST
    assert everything.breaks == math.inf


def test_an_error_in_a_try_comes_through() -> None:
    def holds_at(rate: float) -> bool:
        raise RuntimeError("no simulation")

    with pytest.raises(RuntimeError):
        bracket(holds_at)
