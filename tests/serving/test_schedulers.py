"""What holds for every scheduler, on random runs, compiled and not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scenarios import digest
from scheduler_runs import LONGEST, scheduler_run
from windtunnel.cost.surface import linear_surface
from windtunnel.errors import SpecError
from windtunnel.serving.jit import DISABLED
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.serving.schedulers import SCHEDULERS
from windtunnel.specs.scheduler import SchedulerOptions
from windtunnel.testing import check_policy
from windtunnel.workload.table import request_table

NAMES = tuple(SCHEDULERS)
CHEAP = ("vllm", "sarathi", "edf")
"""Compiled in the default tests; every other kernel costs ten seconds when nothing is on disk."""


@pytest.mark.parametrize("name", NAMES)
def test_every_request_is_served_and_tokens_and_blocks_are_conserved(name: str) -> None:
    for seed in range(3):
        result = scheduler_run(name, seed, record_steps=True, compiled=False)
        steps, limits = result.step_table, result.settings
        assert steps is not None
        assert result.stop == "done"
        assert np.array_equal(result.finished, ~result.rejected)
        asked = np.minimum(result.workload.output_tokens, limits.max_model_len - result.workload.prompt_tokens)
        kept = result.finished
        assert np.array_equal(result.output_tokens[kept], asked[kept])
        assert np.all(result.finish_s[kept] >= result.first_token_s[kept])
        computed = np.zeros(len(result), dtype=np.int64)
        np.add.at(computed, steps.entry_request, steps.entry_tokens)
        once = np.where(kept, result.workload.prompt_tokens + result.output_tokens - 1, 0)
        untouched = result.preemptions == 0
        if name == "static":  # pads to the batch's longest output
            assert np.all(computed >= once)
        else:
            assert np.array_equal((computed + result.cached_tokens)[untouched], once[untouched])
        assert computed.sum() == steps.tokens.sum() == result.tokens.sum()
        assert len(steps.preempted_request) == result.preemptions.sum()
        assert np.all(steps.tokens <= limits.max_num_batched_tokens)
        assert np.all(steps.requests <= limits.max_num_seqs)
        assert np.all((steps.free_blocks >= 0) & (result.peak_blocks.max() <= limits.num_blocks - 1))
        assert np.all(result.peak_host_blocks <= limits.host_blocks)
        for replica in range(len(result.steps)):
            own = np.flatnonzero(steps.replica == replica)
            if len(own):
                last = own[np.argmax(steps.end_s[own])]
                assert steps.free_blocks[last] == limits.num_blocks - 1
                assert steps.running[last] == 0


def _same(name: str, count: int) -> None:
    for seed in range(count):
        assert digest(scheduler_run(name, seed)) == digest(scheduler_run(name, seed, compiled=False)), seed


@pytest.mark.skipif(DISABLED, reason="needs compilation")
@pytest.mark.parametrize("name", CHEAP)
def test_compiled_and_plain_runs_are_identical_to_the_bit(name: str) -> None:
    _same(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_conforms_and_is_the_same_compiled(name: str) -> None:
    """One test and not two, so that its kernel is compiled once however tests are shared out to processes."""
    if name != "custom":  # which is nothing without functions of the user's own
        found = check_policy(name, runs=3)
        assert found.runs == 6
        assert found.steps > 100
    if not DISABLED and name not in CHEAP:
        _same(name, 60)


@pytest.mark.parametrize("name", NAMES)
def test_runs_repeat_and_recording_changes_nothing(name: str) -> None:
    for seed in range(3):
        plain, again = (
            scheduler_run(name, seed, record_steps=False, sample_interval_s=None, compiled=False) for _ in range(2)
        )
        assert digest(plain) == digest(again)
        watched = scheduler_run(name, seed, record_steps=True, sample_interval_s=0.002, compiled=False)
        for column in ("scheduled_s", "first_token_s", "finish_s", "preemptions", "replica", "busy_s", "dynamic_j"):
            assert np.array_equal(getattr(plain, column), getattr(watched, column), equal_nan=True), column
        assert np.array_equal(plain.peak_blocks, watched.peak_blocks)


@pytest.mark.parametrize("name", ["static", "orca", "tensorrt-llm-no-evict"])
def test_reserving_schedulers_never_preempt(name: str) -> None:
    assert sum(scheduler_run(name, seed, compiled=False).preemptions.sum() for seed in range(6)) == 0


def test_settings_that_a_scheduler_lacks_are_refused() -> None:
    usual = SchedulerSettings(4, 256, 256, 40)
    for changes, says in (
        ({"scheduler": "orca", "max_num_batched_tokens": 64}, "without chunked prefill"),
        ({"scheduler": "vtc", "policy": "priority"}, "order of its own"),
        ({"scheduler": "sarathi", "options": SchedulerOptions(preemption="swap")}, "does not swap"),
        ({"scheduler": "fastserve"}, "host_blocks"),
        ({"scheduler": "srtp"}, "did you mean 'srpt'"),
        ({"swap_block_s": -1.0}, "negative"),
    ):
        with pytest.raises(SpecError, match=says):
            replace(usual, **changes)  # type: ignore[arg-type]


def test_every_scheduler_says_what_it_is() -> None:
    for name, info in SCHEDULERS.items():
        assert info.name == name
        assert info.source
        assert info.summary
        assert len(info.summary) < 110


def test_swapping_moves_blocks_and_stalls_steps() -> None:
    workload = request_table(np.zeros(6), np.full(6, 40), np.full(6, 60))
    limits = SchedulerSettings(
        6, LONGEST, LONGEST, 26, 16, scheduler="vllm-v0", host_blocks=100, swap_block_s=1e-3,
        options=SchedulerOptions(preemption="swap"),
    )  # fmt: skip
    swapping = run(workload, linear_surface(0.01, 1e-5), limits, compiled=False)
    assert swapping.preemptions.sum() > 0
    # Everything that left came back, and each block took its millisecond.
    assert swapping.swapped_blocks[0] % 2 == 0
    assert swapping.stalled_s[0] == pytest.approx(swapping.swapped_blocks[0] * 1e-3)
    assert swapping.peak_host_blocks[0] > 0
    recomputing = run(
        workload,
        linear_surface(0.01, 1e-5),
        replace(limits, options=SchedulerOptions(preemption="recompute")),
        compiled=False,
    )
    assert recomputing.swapped_blocks[0] == 0
    assert recomputing.tokens[0] > swapping.tokens[0]
    few = run(workload, linear_surface(0.01, 1e-5), replace(limits, host_blocks=1), compiled=False)
    assert few.peak_host_blocks[0] <= 1
    assert few.finished.all()
