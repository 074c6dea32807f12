"""Errors, groups, intervals and the record that `--json` writes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.evidence.intervals import (
    LEAST_ROWS,
    band,
    bands_of,
    end_to_end,
    growth_by_freedom,
    kind_of,
    with_interval,
)
from windtunnel.evidence.scenario import Claim
from windtunnel.evidence.score import Result, family_of, record, summary


def result(
    measured: float, predicted: float, *, name: str = "S1", low: float = math.nan, high: float = math.nan
) -> Result:
    tags = {"source": "somebody", "gpu": "H100", "model": "m", "metric": "output_throughput", "tier": "A"}
    claim = Claim(name, 2, measured, "output_tokens_per_s", 1.0, None, tags=tags)
    return Result(claim, predicted, low, high, "calibrated")


def test_errors_are_signed_and_relative_to_the_measurement() -> None:
    assert result(100.0, 90.0).error == pytest.approx(-0.1)
    assert result(100.0, 130.0).error == pytest.approx(0.3)


def test_a_summary_by_hand() -> None:
    found = summary([result(100, p, low=p * 0.95, high=p * 1.05) for p in (90.0, 100.0, 120.0)])
    assert found["median_abs_error"] == pytest.approx(0.1)
    assert found["bias"] == pytest.approx(0.0)
    assert found["coverage80"] == pytest.approx(1 / 3)
    assert summary([])["median_abs_error"] is None


@pytest.mark.parametrize(
    ("metric", "family"),
    [
        ("energy_per_output_token", "energy"),
        ("avg_power_total", "energy"),
        ("output_throughput_per_gpu", "throughput"),
        ("itl_median", "latency"),
        ("ttft_p99", "latency"),
        ("mfu", "other"),
    ],
)
def test_energy_is_a_family_of_its_own(metric: str, family: str) -> None:
    assert family_of(metric) == family


def test_the_record_holds_what_is_promised() -> None:
    done = result(100.0, 90.0, low=80.0, high=120.0)
    missing = Claim("S2", 3, 5.0, "", 1.0, None, why="input length not stated", tags={"tier": "A"})
    answer = record([done], [done.claim, missing], {"S2": "input length not stated"})
    assert (answer["rows"], answer["expressed"]) == (2, 1)
    assert set(answer) >= {"rows", "expressed", "median_abs_error", "p90_abs_error", "bias", "coverage80", "by"}
    assert set(answer["by"]) >= {"source", "gpu", "model", "metric", "tier"}
    assert set(answer["results"][0]) == {"id", "measured", "predicted", "low", "high", "error", "provenance"}
    assert answer["not_expressed"] == [{"id": "S2", "why": "input length not stated"}]
    assert answer["by"]["tier"]["A"]["rows"] == 2
    assert answer["by"]["gpu"]["H100"]["expressed"] == 1
    assert answer["by"]["family"]["throughput"]["expressed"] == 1


@given(st.lists(st.floats(0.2, 5.0), min_size=LEAST_ROWS, max_size=200))
def test_a_band_holds_80_percent_and_the_prediction(ratios: list[float]) -> None:
    found = band(ratios)
    inside = np.mean([found.low - 1e-4 <= r <= found.high + 1e-4 for r in ratios])
    assert found.low <= 1.0 <= found.high
    assert inside >= 0.79


def test_conformal_coverage_on_fresh_draws() -> None:
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        found = band(rng.lognormal(0.05, 0.2, 100))
        fresh = rng.lognormal(0.05, 0.2, 100)
        shares.append(np.mean((found.low <= fresh) & (fresh <= found.high)))
    assert 0.77 < float(np.mean(shares)) < 0.86


def test_classes_with_few_rows_are_left_to_wider_ones() -> None:
    found = bands_of([result(100.0, 90.0 + i) for i in range(LEAST_ROWS - 1)])
    assert found == {}
    assert "all" in bands_of([result(100.0, 90.0 + i) for i in range(LEAST_ROWS)])


def test_every_interval_holds_its_prediction() -> None:
    done = with_interval(result(100.0, 90.0))
    assert done.low <= 90.0 <= done.high


@pytest.mark.parametrize(
    ("metric", "kind"),
    [("ttft_p99", "ttft"), ("tpot_mean", "tpot"), ("e2e_latency", "e2e"), ("avg_power", "power"), ("MFU", "training")],
)
def test_kinds_of_metrics(metric: str, kind: str) -> None:
    assert kind_of(metric) == kind


def test_bands_of_few_groups_grow_by_what_was_fitted_to_them() -> None:
    """Nine numbers fitted to twelve groups leave residuals half as large as they would be elsewhere."""

    def of(model: str) -> Result:
        one = result(1.0, 1.0)
        return Result(replace(one.claim, tags=one.claim.tags | {"model": model}), 1.0, 0.9, 1.1, "calibrated")

    groups = [of(f"m{i}") for i in range(12) for _ in range(3)]
    assert growth_by_freedom(groups, 9) == pytest.approx(2.0)
    assert growth_by_freedom(groups, 0) == 1.0
    assert end_to_end().growth_by["training"] > 1.0
