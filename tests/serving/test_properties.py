"""What holds for every run, whatever the workload and settings."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios import digest, random_run, random_workload
from windtunnel.cost.surface import linear_surface
from windtunnel.serving.result import Simulation, StepTable
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings

seeds = st.integers(0, 10**9)


def recorded(result: Simulation) -> StepTable:
    assert result.step_table is not None
    return result.step_table


@settings(max_examples=200)
@given(seeds)
def test_every_request_is_served_or_turned_away(seed: int) -> None:
    result = random_run(seed)
    assert result.stop == "done"
    assert np.array_equal(result.finished, ~result.rejected)
    kept = result.finished
    limit = result.settings.max_model_len - result.workload.prompt_tokens
    assert np.array_equal(result.output_tokens[kept], np.minimum(result.workload.output_tokens, limit)[kept])
    assert np.all(result.output_tokens[~kept] == 0)
    # An arrival within 1e-12 s after a step's end still makes the next step.
    assert np.all(result.scheduled_s[kept] >= result.arrival_s[kept] - 1e-12)
    assert np.all(result.first_token_s[kept] > result.scheduled_s[kept])
    assert np.all(result.finish_s[kept] >= result.first_token_s[kept])
    assert result.makespan_s == np.max(result.finish_s[kept], initial=0.0)


@settings(max_examples=200)
@given(seeds)
def test_tokens_are_conserved(seed: int) -> None:
    result = random_run(seed, record_steps=True)
    steps = recorded(result)
    computed = np.zeros(len(result), dtype=np.int64)
    np.add.at(computed, steps.entry_request, steps.entry_tokens)
    # The last token is sampled but never computed; a preemption repeats what had been done.
    once = np.where(result.finished, result.workload.prompt_tokens + result.output_tokens - 1, 0)
    untouched = result.preemptions == 0
    assert np.array_equal((computed + result.cached_tokens)[untouched], once[untouched])
    assert computed.sum() + result.prefix_hits >= once.sum()
    assert computed.sum() == steps.tokens.sum() == result.tokens.sum()
    assert len(steps) == result.steps.sum()
    assert len(steps.preempted_request) == result.preemptions.sum()


@settings(max_examples=200)
@given(seeds)
def test_limits_hold_in_every_step(seed: int) -> None:
    result = random_run(seed, record_steps=True)
    steps, limits = recorded(result), result.settings
    assert np.all(steps.tokens <= limits.max_num_batched_tokens)
    assert np.all(steps.requests <= limits.max_num_seqs)
    assert np.all(steps.requests == np.diff(steps.entry_offset))
    assert np.all(steps.entry_tokens > 0)
    assert np.all(steps.free_blocks >= 0)
    assert np.all(result.peak_blocks <= limits.num_blocks - 1)
    for replica in range(len(result.steps)):
        own = np.flatnonzero(steps.replica == replica)
        assert np.all(steps.end_s[own] >= steps.start_s[own])
        if len(own):
            assert np.all(np.diff(steps.start_s[own]) >= 0)
            last = own[np.argmax(steps.end_s[own])]
            assert steps.free_blocks[last] == limits.num_blocks - 1
            assert steps.running[last] == 0


@settings(max_examples=60)
@given(seeds)
def test_runs_repeat_and_recording_changes_nothing(seed: int) -> None:
    plain = random_run(seed, record_steps=False, sample_interval_s=None)
    assert digest(plain) == digest(random_run(seed, record_steps=False, sample_interval_s=None))
    watched = random_run(seed, record_steps=True, sample_interval_s=0.002)
    for name in ("scheduled_s", "first_token_s", "finish_s", "preemptions", "replica", "busy_s", "dynamic_j"):
        assert np.array_equal(getattr(plain, name), getattr(watched, name), equal_nan=True), name


@settings(max_examples=60)
@given(seeds)
def test_first_come_is_first_served(seed: int) -> None:
    draw = random.Random(seed)
    workload = random_workload(draw, linked=False, shared=False)
    limits = SchedulerSettings(draw.choice([1, 4]), draw.choice([8, 64]), 400, draw.choice([30, 80]), 8)
    result = run(workload, linear_surface(1e-3, 1e-5), limits)
    served = result.scheduled_s[result.finished]
    assert np.all(np.diff(served) >= 0)


@settings(max_examples=60)
@given(seeds)
def test_with_blocks_for_all_nothing_is_preempted(seed: int) -> None:
    workload = random_workload(random.Random(seed), linked=False, shared=False)
    limits = SchedulerSettings(16, 64, 400, 16 * 26 + 1, 16)
    result = run(workload, linear_surface(1e-3, 1e-5), limits)
    assert result.preemptions.sum() == 0
    assert result.finished.all()
