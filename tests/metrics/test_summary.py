"""The figures of a run: rates, goodput, energy, and the verdict on targets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import made_run
from windtunnel.metrics.goodput import attainment, met
from windtunnel.metrics.steady import bounds_waiting, kept_up, steady_rows
from windtunnel.metrics.summary import metrics_of
from windtunnel.specs.slo import SloSpec, parse_slo


def test_rates_energy_and_use_by_hand() -> None:
    run = made_run(np.arange(10.0), 0.5, 0.05, prompt=100, output=11, busy_s=np.array([5.0]))
    m = metrics_of(run, parse_slo("ttft<1s,attainment>=90%"), static_w=100.0)
    assert m.duration_s == pytest.approx(9.0 + 0.5 + 0.5)
    assert m.request_throughput_per_s == pytest.approx(1.0)
    assert m.output_tokens_per_s == pytest.approx(11.0)
    assert m.total_tokens_per_s == pytest.approx(111.0)
    assert m.joules == pytest.approx(50.0 + 100.0 * 10.0)
    assert m.mean_w == pytest.approx(105.0)
    assert m.joules_per_output_token == pytest.approx(1050.0 / 110.0)
    assert m.busy_share == pytest.approx(0.5)
    assert m.mean_batch_tokens == pytest.approx(20.0)
    assert m.peak_kv_share == pytest.approx(0.5)
    assert m.attainment == 1.0
    assert m.goodput_per_s == pytest.approx(1.0)


def test_figures_by_name() -> None:
    m = metrics_of(made_run(np.arange(10.0), 0.5, 0.05))
    assert m.value("ttft_p99") == m.latency_s["ttft"]["p99"]
    assert m.value("tpot_p99.9") == m.latency_s["tpot"]["p99.9"]
    assert m.value("mean_w") == m.mean_w
    for unknown in ("ttft_p42", "latency_s", "speed"):
        with pytest.raises(KeyError):
            m.value(unknown)


def test_plain_numbers_survive_json() -> None:
    m = metrics_of(made_run(np.arange(10.0), 0.5, 0.05))
    assert json.loads(json.dumps(m.as_dict()))["latency_s"]["ttft"]["p50"] == pytest.approx(0.5)


def test_targets_hold_strictly_below_their_limit() -> None:
    m = metrics_of(made_run(np.arange(100.0), 0.5, 0.05))
    assert m.meets(parse_slo("ttft_p99<0.51s,tpot_p99<51ms"))
    assert [str(t) for t in m.violations(parse_slo("ttft_p99<0.4s,tpot_p99<51ms"))] == ["TTFT p99 < 400 ms"]
    assert m.tightness(parse_slo("ttft_p99<0.4s,tpot_p99<51ms")) == pytest.approx(1.25)


def test_a_target_on_what_no_request_has_holds() -> None:
    m = metrics_of(made_run(np.arange(100.0), 0.5, output=1))
    slo = parse_slo("ttft_p99<1s,tpot_p99<50ms")
    assert m.meets(slo)
    assert m.tightness(slo) == pytest.approx(0.5)


def test_attainment_reads_limits_per_request() -> None:
    ttft = np.where(np.arange(100) < 90, 0.5, 3.0)
    tpot = np.where(np.arange(100) >= 10, 0.01, 0.1)
    run = made_run(np.arange(100.0), ttft, tpot)
    slo = parse_slo("ttft<2s,tpot<50ms,attainment>=80%")
    assert met(run, slo).sum() == 80
    assert attainment(run, slo) == pytest.approx(0.8)
    assert metrics_of(run, slo).meets(slo)
    stricter = parse_slo("ttft<2s,tpot<50ms,attainment>=81%")
    assert not metrics_of(run, stricter).meets(stricter)


def test_who_is_not_served_does_not_meet() -> None:
    ttft = np.full(1000, 0.1)
    ttft[-1] = np.nan
    m = metrics_of(made_run(np.arange(1000.0), ttft))
    slo = parse_slo("ttft_p99<1s")
    assert not m.violations(slo)
    assert not m.meets(slo)


def test_growing_queues_are_seen() -> None:
    arrival = np.arange(400.0)
    wait = np.linspace(0.0, 100.0, 400)
    grown, steady = made_run(arrival, wait + 0.5, wait_s=wait), made_run(arrival, 0.5, wait_s=0.2)
    assert not kept_up(grown)
    assert kept_up(steady)
    assert not kept_up(made_run(arrival, 0.5, stop="overload"))
    # TPOT says nothing about the queue: such a target alone must not call an overloaded deployment good.
    slo = parse_slo("tpot_p99<50ms")
    assert metrics_of(steady).meets(slo)
    assert not metrics_of(grown).meets(slo)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("ttft_p99<2s", True),
        ("e2e_mean<9s", True),
        ("tpot_p99<50ms", False),
        ("ttft_p50<2s,tpot_p99<50ms", False),
        ("ttft<2s,tpot<50ms,attainment>=95%", True),
        ("ttft<2s,attainment>=50%", False),
        ("tpot<50ms,attainment>=95%", False),
    ],
)
def test_which_targets_bound_the_wait(text: str, bounds: bool) -> None:
    assert bounds_waiting(parse_slo(text)) is bounds


def test_steady_part_leaves_out_a_tenth_at_each_end() -> None:
    rows = steady_rows(made_run(np.arange(200.0), 0.5))
    assert rows.sum() == 160
    assert not rows[:20].any()
    assert not rows[-20:].any()


@given(st.floats(0.05, 5.0), st.floats(0.05, 5.0), st.integers(0, 2**31))
def test_looser_limits_are_met_by_no_fewer(one_s: float, other_s: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    run = made_run(np.arange(50.0), draw.exponential(1.0, 50))
    tight, loose = sorted((one_s, other_s))

    def slo(limit_s: float) -> SloSpec:
        return parse_slo(f"ttft<{limit_s}s,attainment>=50%")

    assert attainment(run, slo(tight)) <= attainment(run, slo(loose))
