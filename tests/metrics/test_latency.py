"""Latencies of requests and their statistics, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import made_run
from windtunnel.metrics.latency import cdf_points, latency_statistics, request_latency_s, statistic


def test_definitions_by_hand() -> None:
    run = made_run([0.0, 1.0], [0.5, 0.25], [0.02, 0.04], output=[11, 26])
    assert run.ttft_s == pytest.approx([0.5, 0.25])
    assert run.tpot_s == pytest.approx([0.02, 0.04])
    assert run.e2e_s == pytest.approx([0.5 + 10 * 0.02, 0.25 + 25 * 0.04])
    found = latency_statistics(run)
    assert found["ttft"]["mean"] == pytest.approx(0.375)
    assert found["tpot"]["p50"] == pytest.approx(0.03)
    assert found["e2e"]["p99"] == pytest.approx(0.7 + 0.99 * (1.25 - 0.7))


def test_an_output_of_one_token_has_no_tpot() -> None:
    run = made_run([0.0, 0.0], 0.5, 0.02, output=[1, 11])
    assert request_latency_s(run, "tpot") == pytest.approx([0.02])
    assert len(request_latency_s(run, "ttft")) == 2
    assert np.isnan(latency_statistics(made_run([0.0], 0.5, output=1))["tpot"]["p99"])


def test_requests_never_served_are_infinitely_late() -> None:
    ttft = np.full(100, 0.1)
    ttft[95:] = np.nan
    found = latency_statistics(made_run(np.arange(100.0), ttft))
    assert found["ttft"]["p90"] == pytest.approx(0.1)
    assert found["ttft"]["p95"] == np.inf
    assert found["ttft"]["p99"] == np.inf
    assert found["e2e"]["mean"] == np.inf


def test_rejected_requests_are_left_out() -> None:
    run = made_run([0.0, 1.0], [0.1, np.nan], rejected=np.array([False, True]))
    assert request_latency_s(run, "ttft") == pytest.approx([0.1])


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=50), st.integers(0, 10))
def test_late_requests_never_lower_a_statistic(values: list[float], lost: int) -> None:
    served = np.array(values)
    with_lost = np.append(served, np.full(lost, np.inf))
    for name in ("mean", "p50", "p95", "p99"):
        assert statistic(with_lost, name) >= statistic(served, name) * (1 - 1e-12)


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=50))
def test_statistics_rise_with_the_level(values: list[float]) -> None:
    found = [statistic(np.array(values), name) for name in ("p50", "p75", "p90", "p95", "p99", "p99.9")]
    assert found == sorted(found)
    assert min(values) <= found[0]
    assert found[-1] <= max(values)


def test_distribution_ends_where_requests_are_lost() -> None:
    values, shares = cdf_points(np.append(np.linspace(1.0, 2.0, 80), np.full(20, np.inf)))
    assert values[[0, -1]] == pytest.approx([1.0, 2.0])
    assert shares[-1] == pytest.approx(0.8)
    assert (np.diff(values) >= 0).all()
