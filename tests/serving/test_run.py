"""The front: arrivals that depend on others, early ends, sampling, routing, pipeline stages, energy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scenarios import small_surface
from windtunnel.cost.surface import context_grid, linear_surface
from windtunnel.errors import SpecError
from windtunnel.serving.routing import ROUTERS
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, request_table

ROOMY = SchedulerSettings(16, 64, 512, 600)


def test_a_session_goes_on_after_its_think_time() -> None:
    workload = request_table([0.0, 0.0, 5.0], [10, 10, 10], [3, 3, 3], after=[-1, 0, 1], delay_s=[0.0, 0.5, 0.25])
    result = run(workload, linear_surface(0.01), ROOMY)
    assert result.arrival_s[1] == result.finish_s[0] + 0.5
    assert result.arrival_s[2] == 5.0  # its own time is later than the finish before it
    assert result.finish_s[2] == pytest.approx(5.03)


def test_a_closed_loop_keeps_its_number_of_users() -> None:
    users, n = 3, 60
    after = [AT_ARRIVAL] * users + [AFTER_ANY] * (n - users)
    workload = request_table(np.zeros(n), np.full(n, 8), np.full(n, 5), after=after)
    result = run(workload, linear_surface(0.01), ROOMY, record_steps=True)
    assert result.finished.all()
    assert result.step_table is not None
    assert result.step_table.requests.max() == users
    assert result.makespan_s == pytest.approx(n / users * 5 * 0.01)


def test_sessions_on_several_replicas_run_in_order_of_time() -> None:
    n = 40
    after = [AT_ARRIVAL if i < 8 else i - 8 for i in range(n)]
    workload = request_table(np.zeros(n), np.full(n, 8), 1 + np.arange(n) % 5, after=after)
    result = run(workload, linear_surface(0.01), ROOMY, replicas=4, record_steps=True)
    follows = np.flatnonzero(workload.after >= 0)
    assert np.array_equal(result.arrival_s[follows], result.finish_s[workload.after[follows]])
    assert np.all(result.scheduled_s >= result.arrival_s)
    # An idle replica starts at once, so nobody waits longer than the step under way.
    assert np.max(result.scheduled_s - result.arrival_s) <= 0.01 + 1e-9


def test_what_can_never_fit_is_turned_away_and_its_session_goes_on() -> None:
    workload = request_table([0.0, 0.0, 0.0], [600, 100, 10], [5, 5, 5], after=[-1, 0, -1])
    result = run(workload, linear_surface(0.01), ROOMY)
    assert result.rejected.tolist() == [True, False, False]
    assert result.replica.tolist() == [-1, 0, 0]
    assert result.finished.tolist() == [False, True, True]
    few_blocks = SchedulerSettings(16, 64, 512, 6)
    assert run(workload, linear_surface(0.01), few_blocks).rejected.tolist() == [True, True, False]


def test_truncated_outputs_end_at_the_model_length() -> None:
    workload = request_table([0.0], [500], [100])
    assert run(workload, linear_surface(0.01), ROOMY).rejected.all()
    truncating = SchedulerSettings(16, 64, 512, 600, over_length="truncate")
    assert run(workload, linear_surface(0.01), truncating).output_tokens[0] == 12


def test_hopeless_runs_end_early() -> None:
    workload = request_table(np.arange(1000) * 1e-3, np.full(1000, 64), np.full(1000, 50))
    overloaded = run(workload, linear_surface(0.01), ROOMY, max_waiting=20)
    assert overloaded.stop == "overload"
    assert not overloaded.finished.all()
    late = run(workload, linear_surface(0.01), ROOMY, deadline_s=0.5)
    assert late.stop == "deadline"
    assert late.makespan_s == 0.5
    assert np.nanmax(late.finish_s, initial=0.0) <= 0.5


def test_samples_show_the_cluster_at_even_times() -> None:
    workload = request_table(np.arange(50) * 0.01, np.full(50, 32), np.full(50, 20))
    result = run(workload, linear_surface(0.01), ROOMY, replicas=2, sample_interval_s=0.0473, record_steps=True)
    series, steps = result.series, result.step_table
    assert series is not None
    assert steps is not None
    assert np.array_equal(series.time_s, 0.0473 * np.arange(len(series.time_s)))
    # At a sampled moment a request runs if it was scheduled by then and finishes later.
    for k, moment in enumerate(series.time_s):
        running = np.sum((result.scheduled_s <= moment) & (result.finish_s > moment))
        assert series.running[k] == running
    assert (series.tokens_per_s * 0.0473).sum() <= result.tokens.sum()


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_use_every_replica(router: str) -> None:
    workload = request_table(np.arange(200) * 0.002, np.full(200, 32), np.full(200, 10))
    compiled = router != "custom"  # that would be a loop of its own
    result, again = (
        run(workload, linear_surface(0.01), ROOMY, replicas=4, router=router, seed=1, compiled=compiled)
        for _ in range(2)
    )
    assert np.bincount(result.replica, minlength=4).min() >= 25
    assert np.array_equal(result.replica, again.replica)
    if router == "round_robin":
        assert np.array_equal(result.replica, np.arange(200) % 4)


def test_unknown_names_and_narrow_surfaces_are_refused() -> None:
    workload = request_table([0.0], [8], [2])
    with pytest.raises(SpecError, match="router"):
        run(workload, linear_surface(0.01), ROOMY, router="fastest")
    with pytest.raises(SpecError, match="surface covers"):
        run(workload, small_surface(max_tokens=32), ROOMY)
    with pytest.raises(SpecError, match="replicas"):
        run(workload, linear_surface(0.01), ROOMY, replicas=0)
    with pytest.raises(SpecError) as caught:
        SchedulerSettings(0, -1, 512, 1, watermark=1.5)
    assert len(caught.value.problems) == 4


def test_two_equal_stages_double_the_rate_of_a_saturated_replica() -> None:
    n = 400
    workload = request_table(np.zeros(n), np.full(n, 64), np.ones(n))
    spans = []
    for stages in (1, 2, 4):
        surface = replace(small_surface(stages=stages), host_s=0.0, host_request_s=0.0)
        surface.hop_s[:] = 0.0
        surface.sample_s[:] = 0.0
        spans.append(run(workload, surface, ROOMY).makespan_s)
    # The first step fills the pipeline, then one ends every stage time.
    assert spans[1] == pytest.approx(spans[0] * (n + 1) / (2 * n), rel=1e-9)
    assert spans[2] == pytest.approx(spans[0] * (n + 3) / (4 * n), rel=1e-9)


def test_a_request_under_way_is_not_decoded_twice() -> None:
    workload = request_table(np.zeros(1), [10], [20])
    one, two = (run(workload, small_surface(stages=s), ROOMY, record_steps=True) for s in (1, 2))
    assert one.steps[0] == two.steps[0] == 20
    assert two.step_table is not None
    assert np.all(two.step_table.start_s[1:] >= two.step_table.end_s[:-1])


def test_step_time_and_energy_follow_the_surface() -> None:
    surface = small_surface(window=20)
    workload = request_table(np.zeros(3), [30, 10, 14], [40, 40, 40])
    result = run(workload, surface, ROOMY, record_steps=True)
    steps = result.step_table
    assert steps is not None
    grid = context_grid(512)
    for k in (1, 7, 25, 39):  # pure decode of three requests; 30, 10 and 14 + k tokens of context
        context = np.array([30, 10, 14]) + k
        body_s = (
            surface.token_s[3]
            + np.interp(context.mean(), grid, surface.decode_s[3])
            + np.interp(np.minimum(context, 20).mean(), grid, surface.decode_window_s[3])
        )
        expected_s = 2e-4 + 3e-5 + body_s + surface.sample_s[3]
        assert steps.end_s[k] - steps.start_s[k] == pytest.approx(expected_s, rel=1e-9)
    pairs = sum(p * (p + 1) // 2 for p in (30, 10, 14))
    windowed = 20 * 21 // 2 + 10 * 20 + 10 * 11 // 2 + 14 * 15 // 2
    first_s = (
        2e-4 + 3e-5 + surface.token_s[54] + 1e-4 + 54e-6 + 1e-8 * pairs + 1e-8 * windowed + 1e-7 * 54
        + 3 * 2e-6 + 3e-8 * 54 / 3 + 2e-8 * windowed / 54 + surface.sample_s[3]
    )  # fmt: skip
    assert steps.end_s[0] == pytest.approx(first_s, rel=1e-9)
    contexts = sum(30 + 10 + 14 + 3 * k for k in range(1, 40))
    cut = sum(int(np.minimum(np.array([30, 10, 14]) + k, 20).sum()) for k in range(1, 40))
    joules = 0.1 * (54 + 117) + 0.01 * 120 + 0.01 * 117 + 0.001 * contexts + 0.0005 * cut
    joules += 0.5 + 0.01 * 54 + 0.001 * pairs + 0.001 * 54 + 3 * 0.002 + 0.001 * 54 / 3
    assert result.dynamic_j[0] == pytest.approx(joules, rel=1e-9)
    assert result.busy_s[0] == pytest.approx(float(np.sum(steps.end_s - steps.start_s)), rel=1e-12)
