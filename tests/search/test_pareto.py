"""Pareto fronts by their definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from windtunnel.search.pareto import pareto_front

VALUES = arrays(
    np.float64,
    st.tuples(st.integers(0, 25), st.integers(1, 4)),
    elements=st.one_of(st.integers(0, 5).map(float), st.sampled_from([np.nan, np.inf])),
)


def _dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(VALUES)
def test_front_is_what_nothing_dominates(values: NDArray[np.float64]) -> None:
    front = pareto_front(values)
    assert front.dtype == np.int64
    assert list(front) == sorted(set(front.tolist()))
    finite = [row for row in range(len(values)) if np.isfinite(values[row]).all()]
    for row in range(len(values)):
        beaten = any(_dominates(values[other], values[row]) for other in finite)
        assert (row in front) == (row in finite and not beaten)


@given(VALUES)
def test_what_is_left_out_loses_to_a_member(values: NDArray[np.float64]) -> None:
    front = pareto_front(values)
    for row in set(range(len(values))) - set(front.tolist()):
        assert not np.isfinite(values[row]).all() or any(_dominates(values[k], values[row]) for k in front)


def test_equals_are_all_on_the_front() -> None:
    assert pareto_front(np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.0]])).tolist() == [0, 1, 2]
