"""Metrics of a simulation small enough to work out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from scenarios import small_surface
from windtunnel.cost.surface import linear_surface
from windtunnel.metrics.goodput import attainment, met
from windtunnel.metrics.latency import latency_statistics, request_latency_s
from windtunnel.metrics.steady import kept_up
from windtunnel.metrics.summary import metrics_of
from windtunnel.serving.run import SchedulerSettings, Simulation, run
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import request_table

SETTINGS = SchedulerSettings(max_num_seqs=1, max_num_batched_tokens=64, max_model_len=64, num_blocks=20)


def by_hand() -> Simulation:
    """Steps of 1 s each, one request at a time, so that every time is a whole number.

    0 arrives at 0 with 3 tokens: first at 1, finish at 3. 1 arrives at 1 with 1 token: at 4. 2 arrives at 10 with
    2 tokens: 11 and 12. 3 is longer than the context limit and turned away.
    """
    workload = request_table([0.0, 1.0, 10.0, 10.5], [8, 8, 8, 100], [3, 1, 2, 5])
    return run(workload, linear_surface(1.0), SETTINGS)


def unfinished() -> Simulation:
    """The same run, in which request 2 never finished."""
    done = by_hand()
    finish_s = done.finish_s.copy()
    finish_s[2] = math.nan
    return replace(done, finish_s=finish_s, stop="overload")


def test_the_run_is_what_was_worked_out() -> None:
    done = by_hand()
    np.testing.assert_allclose(done.first_token_s[:3], [1, 4, 11])
    np.testing.assert_allclose(done.finish_s[:3], [3, 4, 12])
    assert done.rejected.tolist() == [False, False, False, True]


def test_ttft_is_first_token_less_arrival_without_the_rejected() -> None:
    np.testing.assert_allclose(request_latency_s(by_hand(), "ttft"), [1, 3, 1])


def test_tpot_is_mean_gap_and_needs_two_tokens() -> None:
    np.testing.assert_allclose(request_latency_s(by_hand(), "tpot"), [1.0, 1.0])


def test_e2e_is_finish_less_arrival() -> None:
    np.testing.assert_allclose(request_latency_s(by_hand(), "e2e"), [3, 3, 2])


def test_statistics() -> None:
    found = latency_statistics(by_hand())
    assert found["ttft"]["mean"] == pytest.approx(5 / 3)
    assert found["ttft"]["p50"] == pytest.approx(1.0)
    assert found["e2e"]["p99"] == pytest.approx(3.0)


def test_an_unfinished_request_is_infinitely_late() -> None:
    found = latency_statistics(unfinished())
    assert found["e2e"]["p99"] == math.inf
    assert found["e2e"]["mean"] == math.inf
    assert found["e2e"]["p50"] == pytest.approx(3.0)
    assert found["ttft"]["p99"] < math.inf
    metrics = metrics_of(unfinished(), parse_slo("e2e_p50<4s"))
    assert not metrics.violations(parse_slo("e2e_p50<4s"))
    assert not metrics.meets(parse_slo("e2e_p50<4s"))  # not every request was served


def test_goodput_counts_requests_that_meet_every_limit() -> None:
    done = by_hand()
    assert met(done, parse_slo("ttft<2s")).tolist() == [True, False, True, False]
    assert met(done, parse_slo("ttft<5s,e2e<2.5s")).tolist() == [False, False, True, False]
    # An output of one token has no gap between tokens that could be too long.
    assert met(done, parse_slo("tpot<0.5s")).tolist() == [False, True, False, False]
    assert attainment(done, parse_slo("ttft<2s")) == pytest.approx(0.5)
    metrics = metrics_of(done, parse_slo("ttft<2s,attainment>=50%"))
    assert metrics.goodput_per_s == pytest.approx(2 / 12)
    assert not metrics.violations(parse_slo("ttft<2s,attainment>=50%"))
    assert metrics.violations(parse_slo("ttft<2s,attainment>=51%"))


def test_a_rejected_request_is_a_target_missed() -> None:
    assert not metrics_of(by_hand()).meets(parse_slo("e2e_p99<1h"))


def test_unfinished_requests_are_no_goodput() -> None:
    assert met(unfinished(), parse_slo("ttft<2s")).tolist() == [True, False, False, False]


def test_throughput_over_the_whole_run() -> None:
    metrics = metrics_of(by_hand())
    assert metrics.duration_s == pytest.approx(12.0)
    assert metrics.request_throughput_per_s == pytest.approx(3 / 12)
    assert metrics.output_tokens_per_s == pytest.approx(6 / 12)
    assert metrics.total_tokens_per_s == pytest.approx((6 + 24) / 12)
    assert metrics.busy_share == pytest.approx(6 / 12)
    assert metrics.mean_batch_tokens == pytest.approx((24 + 3) / 6)
    assert (metrics.requests, metrics.finished, metrics.rejected) == (4, 3, 1)
    assert math.isnan(metrics.goodput_per_s)


def test_tightness_is_the_worst_share_of_a_limit() -> None:
    metrics = metrics_of(by_hand())
    assert metrics.tightness(parse_slo("e2e_p99<6s,ttft_p50<4s")) == pytest.approx(metrics.latency_s["e2e"]["p99"] / 6)
    assert [t.key for t in metrics.violations(parse_slo("e2e_p99<1s,ttft_p50<4s"))] == ["e2e_p99"]


def _served(gap_s: float, count: int = 200) -> Simulation:
    """One request at a time, 1 s each."""
    settings = SchedulerSettings(max_num_seqs=1, max_num_batched_tokens=64, max_model_len=64, num_blocks=20)
    return run(request_table(np.arange(count) * gap_s, [8] * count, [1] * count), linear_surface(1.0), settings)


def test_kept_up() -> None:
    assert kept_up(_served(1.25))
    assert not kept_up(_served(0.5))
    assert not metrics_of(_served(0.5)).kept_up


def test_energy_is_dynamic_plus_static_of_every_replica() -> None:
    workload = request_table(np.arange(30) * 0.01, [20] * 30, [10] * 30)
    settings = SchedulerSettings(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64, num_blocks=100)
    done = run(workload, small_surface(), settings, replicas=2)
    metrics = metrics_of(done, static_w=100.0)
    assert done.dynamic_j.shape == (2,)
    assert (done.dynamic_j > 0).all()
    assert metrics.joules == pytest.approx(done.dynamic_j.sum() + 2 * 100.0 * done.makespan_s)
    assert metrics.mean_w == pytest.approx(metrics.joules / done.makespan_s)
    assert metrics.joules_per_output_token == pytest.approx(metrics.joules / 300)
