"""Recording of steps: who was served, who was preempted, what each step looked like."""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import njit
from windtunnel.serving.state import DECODE

SERVED, PREEMPTED = 0, 1
"""Rows of the entry log."""


@njit
def log_entry(world: Any, log: Any, request: int, tokens: int) -> None:
    """A request gets tokens in the step being composed."""
    log[SERVED, world.entries].request = request
    log[SERVED, world.entries].tokens = tokens
    world.entries += 1


@njit
def log_preempted(world: Any, log: Any, request: int) -> None:
    """A request is preempted in the step being composed."""
    if world.recording:
        log[PREEMPTED, world.preempted].request = request
        world.preempted += 1


@njit
def log_served(world: Any, log: Any, replica: Any, slots: Any, all_decodes: bool) -> None:
    """Note who is served: those granted tokens and, if so, every decoding request with one."""
    for i in range(replica.running):
        slot = slots[slots[i].order]
        tokens = 1 if all_decodes and slot.state == DECODE else slot.chunk
        if tokens > 0:
            log_entry(world, log, slot.request, tokens)


@njit
def log_full(world: Any, log: Any, steps: Any, replica: Any) -> bool:
    """Whether the next step might not fit into the logs."""
    most = min(world.max_num_seqs, replica.running + replica.waiting)
    return bool(
        world.steps + 1 >= len(steps)
        or world.entries + most >= log.shape[1]
        or world.preempted + replica.running >= log.shape[1]
    )


@njit
def log_start(
    world: Any, steps: Any, replica: Any, index: int, end_s: float, first_entry: int, first_preempted: int
) -> None:
    """The step was composed and runs from now_s to end_s."""
    step = steps[world.steps]
    step.replica = index
    step.start_s = world.now_s
    step.end_s = end_s
    step.tokens = replica.step_tokens
    step.prefill_tokens = replica.step_prefill_tokens
    step.requests = replica.step_requests
    step.waiting = replica.waiting
    step.first_entry = first_entry
    step.first_preempted = first_preempted
    replica.log_row = world.steps
    world.steps += 1


@njit
def log_end(steps: Any, replica: Any, row: int) -> None:
    """The step's tokens were processed."""
    step = steps[row]
    step.running = replica.running
    step.free_blocks = replica.free_blocks


@njit
def log_sample(world: Any, replicas: Any, series: Any) -> None:
    """The cluster's state at the next sampling moment."""
    sample = series[world.samples]
    sample.time_s = world.next_sample_s
    sample.running = 0
    sample.waiting = 0
    sample.used_blocks = 0
    sample.tokens = 0
    for r in range(world.replicas):
        sample.running += replicas[r].running
        sample.waiting += replicas[r].waiting
        sample.used_blocks += world.usable_blocks - replicas[r].free_blocks
        sample.tokens += replicas[r].tokens
    world.samples += 1
    world.next_sample_s = world.samples * world.sample_interval_s
