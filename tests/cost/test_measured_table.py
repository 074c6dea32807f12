"""Tables of measured seconds: exact at points, straight in between, nothing beyond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost.measured.table import table

sizes = st.lists(st.integers(1, 5000), min_size=2, max_size=12, unique=True).map(sorted)


@given(sizes, st.data())
def test_exact_at_points_and_monotone_between(rows: list[int], data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.floats(0.0, 1e-3), min_size=len(rows), max_size=len(rows)))
    seconds = np.cumsum(np.array(steps) + 1e-6)
    found = table(("rows",), {(float(row),): float(s) for row, s in zip(rows, seconds, strict=True)}, "a table")
    assert found.at(rows) == pytest.approx(seconds)
    between = found.at(np.linspace(rows[0], rows[-1], 50))
    assert (np.diff(between) >= -1e-15).all()


def test_an_affine_cost_is_met_everywhere() -> None:
    def cost(n: float, kv: float) -> float:
        return 5e-6 + 1e-7 * n + 2e-9 * n * kv

    points = {(n, kv): cost(n, kv) for n in (1.0, 8.0, 64.0) for kv in (16.0, 1024.0, 8192.0)}
    found = table(("requests", "context"), points, "a table")
    asked = np.array([[3.0, 100.0], [8.0, 5000.0], [40.0, 16.0]])
    assert found.at(asked[:, 0], asked[:, 1]) == pytest.approx([cost(n, kv) for n, kv in asked])


def test_nothing_is_known_beyond_and_the_least_holds_below() -> None:
    found = table(("rows",), {(16.0,): 1e-5, (32.0,): 2e-5}, "a table")
    assert np.isnan(found.at(33.0))
    assert found.at([1.0, 16.0]) == pytest.approx([1e-5, 1e-5])


def test_ragged_grids_nest() -> None:
    points = {(0.0, 4.0): 1.0, (0.0, 8.0): 2.0, (10.0, 6.0): 3.0}
    found = table(("a", "b"), points, "a table")
    assert found.at([0.0, 0.0, 10.0, 5.0], [4.0, 8.0, 6.0, 6.0]) == pytest.approx([1.0, 2.0, 3.0, 2.25])
    assert np.isnan(found.at(10.0, 7.0))
    assert found.at(np.zeros((2, 3)), np.full((2, 3), 6.0)).shape == (2, 3)
