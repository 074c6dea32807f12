"""Steps composed ahead: what arrives during a step is in the one after the next."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios import random_setup, random_workload
from windtunnel.cost.surface import linear_surface
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import Policy, SchedulerSettings, run
from windtunnel.serving.schedulers import SCHEDULERS
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, RequestTable, request_table

STEP_S = 1.0
SURFACE = linear_surface(STEP_S, 0.0)
ROOMY = SchedulerSettings(64, 4096, 400, 4000, overlap_scheduling=True)

seeds = st.integers(0, 10**9)


def served(workload: RequestTable, limits: SchedulerSettings = ROOMY, **arguments: Any) -> Simulation:
    return run(workload, SURFACE, limits, **({"record_steps": True, "compiled": False} | arguments))


def first_steps(result: Simulation) -> list[tuple[int, int, bool]]:
    """For every request: how many of its replica's steps began since the one under way at its arrival (0: it was
    idle), among them the one that serves it first, and whether all others of the first step arrived meanwhile too."""
    steps = result.step_table
    assert steps is not None
    found = []
    for i in np.flatnonzero(result.finished):
        own = np.flatnonzero(steps.replica == result.replica[i])
        serving = [set(steps.entry_request[steps.entry_offset[s] : steps.entry_offset[s + 1]].tolist()) for s in own]
        first = next(k for k, requests in enumerate(serving) if i in requests)
        arrival_s = result.arrival_s[i] - 1e-12
        under_way = [k for k, s in enumerate(own) if steps.start_s[s] < arrival_s <= steps.end_s[s]]
        if not under_way:
            found.append((int(i), 0, True))
            continue
        began_s = steps.start_s[own[under_way[0]]]
        late = {int(j) for j in np.flatnonzero(result.arrival_s - 1e-12 > began_s)}
        found.append((int(i), first - under_way[0], serving[min(under_way[0] + 1, len(own) - 1)] <= late))
    return found


def test_by_hand() -> None:
    # The first is alone; the second and third come in its first and at the end of its second step; the fourth in the
    # last step of all others; the fifth when nobody is there.
    workload = request_table([0.0, 0.5, 2.0, 6.5, 20.0], [8] * 5, [7, 2, 1, 2, 1])
    ahead, plain = served(workload), served(workload, replace(ROOMY, overlap_scheduling=False))
    assert ahead.scheduled_s.tolist() == [0.0, 2.0, 3.0, 7.0, 20.0]
    assert ahead.first_token_s.tolist() == [1.0, 3.0, 4.0, 8.0, 21.0]
    assert plain.scheduled_s.tolist() == [0.0, 1.0, 2.0, 7.0, 20.0]


def test_closed_loop_waits_for_the_step_under_way() -> None:
    # The client answers at once, while another request keeps the engine busy: its next one misses one step each time.
    after = [AT_ARRIVAL, AT_ARRIVAL, AFTER_ANY, AFTER_ANY]
    workload = request_table([0.0] * 4, [8] * 4, [100, 1, 1, 1], after=after)
    assert served(workload).scheduled_s.tolist() == [0.0, 0.0, 2.0, 4.0]
    plain = served(workload, replace(ROOMY, overlap_scheduling=False))
    assert plain.scheduled_s.tolist() == [0.0, 0.0, 1.0, 2.0]


@settings(max_examples=60)
@given(st.lists(st.floats(0.01, 30.0), min_size=1, max_size=12), st.integers(0, 3))
def test_beside_a_long_decode_all_wait_exactly_one_step_more(arrivals: list[float], more: int) -> None:
    arrival_s = [0.0, *sorted(arrivals)]
    outputs = [60, *[1 + (more + i) % 4 for i in range(len(arrivals))]]
    workload = request_table(arrival_s, [8] * len(arrival_s), outputs)
    ahead, plain = served(workload), served(workload, replace(ROOMY, overlap_scheduling=False))
    later = ahead.scheduled_s - plain.scheduled_s
    # One that arrives at the very end of a step is in neither the next step nor, without overlap, kept from it.
    assert later[0] == 0.0
    assert np.allclose(later[1:], STEP_S)
    assert np.allclose((ahead.first_token_s - plain.first_token_s)[1:], STEP_S)


@settings(max_examples=100)
@given(seeds)
def test_arrivals_are_in_the_step_after_the_next(seed: int) -> None:
    workload, surface, limits, arguments = random_setup(seed)
    if len(surface.stage_share) > 1:
        return
    result = run(workload, surface, replace(limits, overlap_scheduling=True), **(arguments | {"record_steps": True}))
    for _, later, all_late in first_steps(result):
        assert later != 1 or all_late


@settings(max_examples=60)
@given(seeds)
def test_with_room_for_all_nobody_waits_longer_than_that(seed: int) -> None:
    result = served(random_workload(random.Random(seed), linked=seed % 2 == 1, shared=False))
    for i, later, all_late in first_steps(result):
        assert later in (0, 1, 2)
        if later == 0:
            assert result.scheduled_s[i] == pytest.approx(result.arrival_s[i], abs=1e-12)
        else:
            assert later == (1 if all_late else 2)


@settings(max_examples=60)
@given(seeds)
def test_requests_are_taken_up_when_vllms_asynchronous_scheduler_takes_them_up(seed: int) -> None:
    workload = random_workload(random.Random(seed), linked=seed % 2 == 1, shared=False)
    ahead = served(workload)
    exact = served(workload, replace(ROOMY, overlap_scheduling=False, async_scheduling=True))
    # Its requests are scheduled when a step is composed, which is one step before it begins.
    for name in ("first_token_s", "finish_s"):
        assert np.allclose(getattr(ahead, name), getattr(exact, name)), name


@pytest.mark.parametrize("scheduler", sorted(set(SCHEDULERS) - {"custom"}))
def test_every_scheduler_serves_all_and_counts_those_held_back(scheduler: str) -> None:
    for seed in range(8):
        workload = random_workload(random.Random(seed), linked=seed % 2 == 1, shared=False)
        limits = SchedulerSettings(4, 200, 200, 60, 8, scheduler=scheduler, overlap_scheduling=True, host_blocks=60)
        result = run(workload, linear_surface(1e-3, 1e-5), limits, sample_interval_s=1e-3, compiled=False)
        assert result.finished.all()
        assert np.array_equal(result.output_tokens, workload.output_tokens)
        series = result.series
        assert series is not None
        for at_s, running, waiting in zip(series.time_s, series.running, series.waiting, strict=True):
            arrived = np.sum(result.arrival_s < at_s - 1e-9)
            by_then = np.sum(result.arrival_s <= at_s + 1e-9)
            # Static batching keeps seats of requests that have ended until their batch ends.
            present = running + waiting
            assert arrived - np.sum(result.finish_s <= at_s + 1e-9) <= present <= by_then


def test_those_held_back_count_for_routers_overload_and_policies() -> None:
    workload = request_table([0.0, 0.0, 0.1, 0.2, 0.3, 0.4], [8] * 6, [9] * 6)
    by_load = served(workload, replicas=2, router="least_outstanding")
    assert np.bincount(by_load.replica).tolist() == [3, 3]
    policy = Policy(route=lambda replica, index: replica.running + replica.waiting + 0.001 * index)
    assert np.bincount(served(workload, replicas=2, policy=policy).replica).tolist() == [3, 3]
    assert served(workload, max_waiting=3).stop == "overload"
    assert served(workload, max_waiting=4).stop == "done"
    ended = served(workload, deadline_s=0.7)
    assert ended.stop == "deadline"
    assert np.isnan(ended.scheduled_s[2:]).all()
    assert np.isfinite(ended.arrival_s).all()
