"""Sliding-window layers in block tables of their own: what they hold, and that they give it back."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from scenarios import digest, random_workload, small_surface
from windtunnel.cost.surface import linear_surface
from windtunnel.errors import SpecError
from windtunnel.serving.jit import DISABLED
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.workload.table import request_table

NAMES = ("vllm", "sarathi", "vllm-v0", "orca", "srpt")
ONE = SchedulerSettings(1, 64, 512, 1000, 16, window_groups=5, full_groups=1, kv_window=64)


def windowed_run(name: str, seed: int, compiled: bool = False) -> Simulation:
    draw = random.Random(seed)
    settings = SchedulerSettings(
        draw.choice([1, 3, 16]), 200, 200, draw.choice([200, 400]), draw.choice([4, 16]),
        scheduler=name, window_groups=draw.choice([1, 3]), full_groups=draw.choice([0, 1]),
        kv_window=draw.choice([5, 20, 64]),
    )  # fmt: skip
    workload = random_workload(draw, linked=draw.random() < 0.3, shared=False)
    surface = small_surface(200, stages=draw.choice([1, 1, 2]))
    return run(workload, surface, settings, record_steps=True, compiled=compiled)


@pytest.mark.parametrize("name", NAMES)
def test_every_block_comes_back(name: str) -> None:
    for seed in range(8):
        result = windowed_run(name, seed)
        steps = result.step_table
        assert steps is not None
        assert np.array_equal(result.finished, ~result.rejected)
        assert np.all(steps.free_blocks >= 0)
        if len(steps):
            assert steps.free_blocks[np.argmax(steps.end_s)] == result.settings.num_blocks - 1


@pytest.mark.slow
@pytest.mark.skipif(DISABLED, reason="needs compilation")
@pytest.mark.parametrize("name", ["vllm", "srpt"])
def test_compiled_and_plain_runs_are_identical_to_the_bit(name: str) -> None:
    for seed in range(40):
        assert digest(windowed_run(name, seed)) == digest(windowed_run(name, seed, compiled=True))


def test_a_request_holds_its_window_and_no_more() -> None:
    workload = request_table([0.0], [100], [300])
    result = run(workload, linear_surface(1e-3), ONE, record_steps=True, compiled=False)
    steps = result.step_table
    assert steps is not None
    for k in range(10, len(steps) - 1):
        # Chunks of 64 and 36, then a token a step; what the step after this one will not see is still held.
        before = 100 + k - 2
        total = -(-(before + 1) // 16)
        held = total + 5 * (total - max(0, before - 63) // 16)
        assert steps.free_blocks[k] == 999 - held
    assert result.peak_blocks[0] <= 400 // 16 + 5 * ((63 + 64) // 16 + 1)
    full = run(workload, linear_surface(1e-3), replace(ONE, window_groups=0, full_groups=1), compiled=False)
    assert np.array_equal(full.finish_s, result.finish_s)


def test_windows_beyond_every_length_hold_everything() -> None:
    workload = random_workload(random.Random(2), linked=False, shared=False)
    alike = replace(ONE, max_num_seqs=4, kv_window=10_000, window_groups=1, full_groups=1, num_blocks=81)
    one = run(workload, linear_surface(1e-3), alike, compiled=False)
    plain = replace(alike, window_groups=0, num_blocks=41)
    assert digest(one) != digest(run(workload, linear_surface(1e-3), plain, compiled=False))  # twice the blocks
    assert np.array_equal(one.finish_s, run(workload, linear_surface(1e-3), plain, compiled=False).finish_s)


def test_more_requests_fit_when_windows_free_their_blocks() -> None:
    workload = request_table(np.zeros(12), np.full(12, 200), np.full(12, 200))
    limits = replace(ONE, max_num_seqs=12, num_blocks=400)
    windowed = run(workload, linear_surface(1e-2), limits, compiled=False)
    whole = run(workload, linear_surface(1e-2), replace(limits, kv_window=10_000), compiled=False)
    assert windowed.preemptions.sum() < whole.preemptions.sum()
    assert windowed.makespan_s < 0.8 * whole.makespan_s


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        replace(ONE, enable_prefix_caching=True, kv_window=0)
    assert len(caught.value.problems) == 2
