"""Known differences between schedulers, on one workload each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.cost.surface import StepSurface, linear_surface
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.specs.scheduler import SchedulerOptions
from windtunnel.workload.table import RequestTable, request_table

BASE_S, TOKEN_S = 0.005, 2e-5
SURFACE = linear_surface(BASE_S, TOKEN_S)
ROOMY = SchedulerSettings(16, 2048, 2048, 3000)
EXACT = SchedulerOptions(reservation="exact")


def served(
    workload: RequestTable,
    scheduler: str,
    settings: SchedulerSettings = ROOMY,
    surface: StepSurface = SURFACE,
    **changes: Any,
) -> Simulation:
    limits = replace(settings, scheduler=scheduler, **changes)
    result = run(workload, surface, limits, record_steps=True, compiled=False)
    assert result.finished.all()
    return result


def mixed(n: int = 80, rate_per_s: float = 8.0, seed: int = 0) -> RequestTable:
    """Mixed prompts and outputs at random times."""
    draw = np.random.default_rng(seed)
    arrival_s = np.cumsum(draw.exponential(1 / rate_per_s, n))
    prompt = np.clip(draw.lognormal(5.5, 0.9, n), 8, 1800).astype(np.int64)
    output = np.clip(draw.exponential(60, n), 1, 240).astype(np.int64)
    return request_table(arrival_s, prompt, output)


def longest_gap_s(result: Simulation) -> float:
    """The longest time between two tokens of one request."""
    steps = result.step_table
    assert steps is not None
    end_s = np.repeat(steps.end_s, np.diff(steps.entry_offset))
    worst = 0.0
    for i in range(len(result)):
        own = end_s[steps.entry_request == i]
        own = own[own >= result.first_token_s[i]]
        if len(own) > 1:
            worst = max(worst, float(np.diff(own).max()))
    return worst


def test_chunked_prefill_bounds_the_gaps_that_prefill_first_shows() -> None:
    workload, budget = mixed(), 128
    first = longest_gap_s(served(workload, "vllm-v0"))
    assert first > BASE_S + TOKEN_S * 1000  # somebody waited for a step of long prompts
    for name in ("sarathi", "vllm", "splitfuse"):
        bounded = longest_gap_s(served(workload, name, max_num_batched_tokens=budget))
        assert bounded <= BASE_S + TOKEN_S * budget + 1e-9
        assert bounded < first / 3


def test_orca_beats_static_batching_by_several_times_on_mixed_lengths() -> None:
    draw = np.random.default_rng(1)
    output = np.clip(draw.lognormal(3.0, 1.3, 160), 1, 400).astype(np.int64)
    workload = request_table(np.zeros(160), np.full(160, 16), output)
    static = served(workload, "static", options=EXACT)
    orca = served(workload, "orca", options=EXACT)
    assert static.makespan_s / orca.makespan_s > 3.0
    same = request_table(np.zeros(64), np.full(64, 16), np.full(64, 50))
    ratio = served(same, "static", options=EXACT).makespan_s / served(same, "orca", options=EXACT).makespan_s
    assert ratio == pytest.approx(1.0, abs=0.02)


def test_a_static_batch_ends_together() -> None:
    workload = request_table(np.zeros(8), np.full(8, 16), np.arange(1, 9) * 10)
    result = served(workload, "static", options=EXACT, max_num_seqs=4)
    assert len(set(result.finish_s[:4])) == len(set(result.finish_s[4:])) == 1
    assert result.output_tokens.tolist() == workload.output_tokens.tolist()


def test_no_evict_never_preempts_where_max_utilization_does() -> None:
    workload = mixed(rate_per_s=40.0)
    safe = served(workload, "tensorrt-llm-no-evict", num_blocks=200, options=EXACT)
    greedy = served(workload, "tensorrt-llm-max-utilization", num_blocks=200)
    assert safe.preemptions.sum() == 0
    assert greedy.preemptions.sum() > 0


def test_reserving_less_lets_more_run_at_once() -> None:
    workload = mixed(rate_per_s=40.0)
    spans = [
        served(workload, "orca", num_blocks=400, options=SchedulerOptions(reservation=kind)).makespan_s
        for kind in ("exact", "power_of_two", "max_model_len")
    ]
    assert spans[0] < spans[1] < spans[2]


def test_short_jobs_first_lowers_the_mean_latency() -> None:
    workload = mixed(rate_per_s=60.0)
    limits = replace(ROOMY, max_num_seqs=8)
    fcfs = served(workload, "sarathi", limits)
    srpt = served(workload, "srpt", limits)
    predicted = served(workload, "predicted", limits)
    noisy = served(workload, "predicted", limits, options=SchedulerOptions(length_error=1.5))
    assert srpt.e2e_s.mean() < 0.75 * fcfs.e2e_s.mean()
    assert predicted.e2e_s.mean() < noisy.e2e_s.mean() < fcfs.e2e_s.mean()


def test_the_feedback_queue_favours_short_jobs_without_knowing_lengths() -> None:
    draw = np.random.default_rng(2)
    output = np.clip(draw.lognormal(2.5, 1.5, 100), 1, 500).astype(np.int64)  # the longer, the longer still
    workload = request_table(np.cumsum(draw.exponential(0.01, 100)), np.full(100, 64), output)
    limits = replace(ROOMY, max_num_seqs=8, host_blocks=5000, swap_block_s=2e-5)
    fcfs, mlfq = served(workload, "orca", limits, options=EXACT), served(workload, "fastserve", limits)
    assert mlfq.e2e_s.mean() < fcfs.e2e_s.mean()
    assert mlfq.ttft_s.mean() < 0.5 * fcfs.ttft_s.mean()
    assert mlfq.swapped_blocks.sum() > 0


def service(result: Simulation, tenant: int, moment_s: float, weights: tuple[float, float] = (1.0, 2.0)) -> float:
    """Service of a tenant by the end of the steps that ended by then: prompts when admitted, tokens as they come."""
    steps, workload = result.step_table, result.workload
    assert steps is not None
    own = workload.tenant == tenant
    total = float(weights[0] * workload.prompt_tokens[own & (result.scheduled_s < moment_s)].sum())
    in_time = np.repeat(steps.end_s <= moment_s, np.diff(steps.entry_offset))
    decodes = in_time & own[steps.entry_request]
    end_s = np.repeat(steps.end_s, np.diff(steps.entry_offset))
    gives_token = end_s >= result.first_token_s[steps.entry_request]
    return total + weights[1] * float((decodes & gives_token).sum())


def test_fair_queueing_bounds_the_gap_between_two_tenants() -> None:
    n = 60
    tenant = np.repeat([0, 1], n)
    prompt = np.where(tenant == 0, 200, 40)
    output = np.where(tenant == 0, 20, 100)
    workload = request_table(np.zeros(2 * n), prompt, output, tenant=tenant)
    limits = replace(ROOMY, num_blocks=121)
    memory_tokens = 120 * 16
    bound = 2 * max(1.0 * prompt.max(), 2.0 * memory_tokens)
    gaps = {}
    for name in ("vtc", "sarathi"):
        result = served(workload, name, limits)
        both_wait_s = min(result.scheduled_s[tenant == t].max() for t in (0, 1))
        assert result.step_table is not None
        moments = [m for m in result.step_table.end_s if m <= both_wait_s]
        gaps[name] = max(abs(service(result, 0, m) - service(result, 1, m)) for m in moments)
    assert gaps["vtc"] <= bound
    assert gaps["vtc"] < 0.25 * gaps["sarathi"]


def test_an_idle_tenant_earns_no_credit() -> None:
    """A tenant that comes late is served alike from then on, not until it has caught up."""
    n = 40
    arrival_s = np.concatenate([np.zeros(2 * n), np.full(n, 1.0)])
    tenant = np.concatenate([np.zeros(2 * n, dtype=np.int64), np.ones(n, dtype=np.int64)])
    workload = request_table(arrival_s, np.full(3 * n, 64), np.full(3 * n, 40), tenant=tenant)
    result = served(workload, "vtc", replace(ROOMY, max_num_seqs=4))
    after = np.sort(result.scheduled_s[(tenant == 0) & (result.scheduled_s > 1.0)])
    late = np.sort(result.scheduled_s[tenant == 1])
    share = np.searchsorted(after, late[n // 2 - 1]) / (n // 2)
    assert share == pytest.approx(1.0, abs=0.25)


def test_deadlines_are_met_more_often_earliest_first() -> None:
    workload = mixed(rate_per_s=40.0, seed=4)
    options = SchedulerOptions(deadline_s=0.1, deadline_per_token_s=3e-3)
    due_s = 0.1 + 3e-3 * workload.prompt_tokens
    limits = replace(ROOMY, max_num_seqs=8)
    late = [(served(workload, name, limits, options=options).ttft_s > due_s).mean() for name in ("edf", "vllm")]
    assert late[0] < 0.8 * late[1]


def test_predicting_the_peak_preempts_less_than_taking_what_fits() -> None:
    workload = mixed(120, rate_per_s=40.0)
    greedy = served(workload, "vllm-v0", num_blocks=220)
    foreseen = served(workload, "lightllm", num_blocks=220)
    assert foreseen.preemptions.sum() < 0.5 * greedy.preemptions.sum()


def shared_prefixes(groups: int, each: int, prefix: int, own: int, seed: int = 0) -> RequestTable:
    """Offline: every request is one of a group's prefix and a part of its own, in random order."""
    draw = np.random.default_rng(seed)
    group = draw.permutation(np.repeat(np.arange(groups), each))
    n = len(group)
    ids = np.stack([group, groups + np.arange(n)], axis=1).ravel()
    tokens = np.tile([prefix, own], n)
    return request_table(
        np.zeros(n), np.full(n, prefix + own), draw.integers(5, 60, n), segments=(2 * np.arange(n + 1), ids, tokens)
    )


def test_prefix_aware_orders_find_more_in_a_small_cache() -> None:
    workload = shared_prefixes(8, 8, 320, 32)
    limits = replace(ROOMY, num_blocks=130, enable_prefix_caching=True, max_num_seqs=4)
    by_tokens = linear_surface(1e-3, 1e-4)
    usual = served(workload, "vllm", limits, by_tokens)
    for name in ("sglang", "batchllm"):
        aware = served(workload, name, limits, by_tokens, options=EXACT)
        assert aware.prefix_hits > 1.3 * usual.prefix_hits
        assert aware.makespan_s < usual.makespan_s


def test_grouping_changes_little_where_nothing_is_shared() -> None:
    workload = request_table(np.zeros(80), np.full(80, 300), np.full(80, 40))
    usual, grouped = (served(workload, name, replace(ROOMY, num_blocks=600)) for name in ("vllm", "batchllm"))
    assert grouped.makespan_s == pytest.approx(usual.makespan_s, rel=0.1)


def test_cheap_switches_take_less_of_the_time() -> None:
    workload = mixed(40, rate_per_s=30.0)
    limits = replace(ROOMY, max_num_seqs=8, host_blocks=10_000, swap_block_s=1e-4)
    plain = SchedulerOptions(
        swap_group_blocks=1, swap_overlap="off", swap_reuse="off", swap_call_s=2e-4, priority_update_steps=5
    )
    stalled = [
        served(workload, "fastswitch", limits, options=plain.model_copy(update=change)).stalled_s[0]
        for change in ({}, {"swap_group_blocks": 60}, {"swap_reuse": "on"}, {"swap_overlap": "on"})
    ]
    assert all(less < stalled[0] for less in stalled[1:])
    everything = served(workload, "fastswitch", limits, options=SchedulerOptions(
        swap_call_s=2e-4, priority_update_steps=5
    ))  # fmt: skip
    assert everything.stalled_s[0] < 0.3 * stalled[0]
