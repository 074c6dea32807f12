"""Finding the fewest replicas; seeing when slots run out; refusing early only what is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runs import SETTINGS, made_run
from windtunnel.cost.surface import linear_surface
from windtunnel.metrics.summary import metrics_of
from windtunnel.search.screen import opening, refuted
from windtunnel.search.solve import fills_slots, least
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import RequestTable, request_table


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 250))
def test_least_is_the_threshold(one: int, other: int, threshold: int) -> None:
    low, high = sorted((one, other))
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number >= threshold

    found = least(holds, low, high)
    assert found == min(max(threshold, low), high)
    assert found in tried
    assert len(tried) == len(set(tried)) <= 20
    assert all(low <= number <= high for number in tried)


def served(count: int, slots: int, **changed: Any) -> Any:
    settings = SchedulerSettings(
        max_num_seqs=slots, max_num_batched_tokens=64, max_model_len=128, num_blocks=2000, block_size=4
    )
    return run(request_table(np.zeros(count), [8] * count, [8] * count), linear_surface(0.01), settings, **changed)


@pytest.mark.parametrize(("count", "replicas", "full"), [(3, 1, False), (4, 1, True), (7, 2, True), (6, 2, False)])
def test_full_slots_are_seen(count: int, replicas: int, full: bool) -> None:
    assert fills_slots(served(count, 4, replicas=replicas)) is full


def test_slots_freed_in_between_are_not_counted_twice() -> None:
    run = made_run(np.arange(40.0), 0.1, 0.01)  # one after the other, of 8 slots
    assert SETTINGS.max_num_seqs == 8
    assert not fills_slots(run)


SLOS = [
    "ttft_p99<50ms",
    "ttft_p90<200ms,tpot_p90<12ms",
    "e2e_p95<400ms",
    "ttft<100ms,tpot<12ms,attainment>=90%",
    "ttft_p50<50ms",
]


def busy_hour(rate_per_s: float, seed: int) -> RequestTable:
    draw = np.random.default_rng(seed)
    arrival = np.cumsum(draw.exponential(1.0 / rate_per_s, 4000))
    return request_table(arrival, draw.integers(1, 60, 4000), draw.integers(1, 30, 4000))


@pytest.mark.parametrize("slo", SLOS)
@pytest.mark.parametrize("rate_per_s", [20.0, 60.0, 75.0, 90.0, 200.0])
def test_what_the_opening_refutes_does_not_hold(slo: str, rate_per_s: float) -> None:
    targets = parse_slo(slo)
    settings = SchedulerSettings(
        max_num_seqs=16, max_num_batched_tokens=64, max_model_len=128, num_blocks=500, block_size=4
    )
    for seed in range(3):
        workload = busy_hour(rate_per_s, seed)
        start = opening(workload)
        assert start is not None
        whole = run(workload, linear_surface(0.008, 3e-5), settings, replicas=2)
        first = run(start, linear_surface(0.008, 3e-5), settings, replicas=2)
        if refuted(first, workload, targets):
            assert not metrics_of(whole, targets).meets(targets)


def test_the_opening_refutes_what_is_hopeless() -> None:
    settings = SchedulerSettings(
        max_num_seqs=16, max_num_batched_tokens=64, max_model_len=128, num_blocks=500, block_size=4
    )
    workload = busy_hour(2000.0, 1)
    start = opening(workload)
    assert start is not None
    done = run(start, linear_surface(0.008, 3e-5), settings)
    assert refuted(done, workload, parse_slo("ttft_p99<50ms"))


def test_short_and_linked_workloads_have_no_opening() -> None:
    assert opening(request_table(np.arange(100.0), [8] * 100, [8] * 100)) is None
    linked = np.arange(-1, 4999)
    assert opening(request_table(np.arange(5000.0), [8] * 5000, [8] * 5000, after=linked)) is None
    assert opening(request_table(np.zeros(5000), [8] * 5000, [8] * 5000)) is None
