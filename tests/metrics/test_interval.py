"""Confidence intervals hold as often as they say, also for correlated series."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.metrics.interval import batch_interval


def test_coverage_for_correlated_values() -> None:
    draw = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        noise = draw.normal(size=4000)
        values = np.empty(4000)
        values[0] = noise[0]
        for i in range(1, 4000):
            values[i] = 0.8 * values[i - 1] + noise[i]
        low, high = batch_interval(values)
        covered += low <= 0.0 <= high
    # 95 % nominal; 200 trials have a standard error of 1.5 %.
    assert 0.90 <= covered / 200 <= 0.99


def test_percentiles_have_an_interval_around_them() -> None:
    values = np.random.default_rng(3).exponential(1.0, 20000)
    low, high = batch_interval(values, "p90")
    assert low < np.quantile(values, 0.9) < high
    assert high - low < 0.3


@pytest.mark.parametrize("values", [np.ones(50), np.full(1000, np.inf)])
def test_no_interval_where_there_is_none(values: np.ndarray) -> None:
    assert np.isnan(batch_interval(values)).all()
