"""The event loop: arrivals, steps and their ends, for one replica or a thousand.

Order at equal times: steps end, requests arrive (within 1e-12 s), steps start. A replica that
nobody can disturb before its step ends goes on to its next step at once, without an event:
between two arrivals replicas do not influence each other.

**Steps composed ahead** (`world.overlap`). vLLM with asynchronous scheduling, SGLang's overlap scheduler and
TensorRT-LLM's compose step k + 1 and put it behind step k on the device as soon as step k has started; then
they wait for step k's tokens, and only after that look at what has arrived:

- vLLM 0.32, vllm/v1/engine/core.py: `run_busy_loop` empties the input queue before each
  `step_with_batch_queue`, which schedules a step, returns at once while its queue of two is not full,
  and else blocks until the older step's output is there.
- SGLang, python/sglang/srt/managers/scheduler.py, `event_loop_overlap`: `recv_requests`,
  `get_next_batch_to_run`, `run_batch` of step k + 1, then `process_batch_result` of step k.
- TensorRT-LLM, tensorrt_llm/_torch/pyexecutor/py_executor.py, `_executor_loop_overlap`: new requests are
  fetched and scheduled, `_forward_step` of step k + 1, then `_process_previous_batch` of step k.

So a request that arrives while step k runs is not in step k + 1 but, at the earliest, in step k + 2. Here steps are
composed when they start, and what has arrived since the one before started is held back (`REPLICA.held`, part of
`REPLICA.waiting`) until the step is composed. When nothing else is left to run, the step composed ahead is empty and
costs nothing, and those held back are taken up at once, as by an engine that is idle. What a request that has ended
may still be computed for (SGLang and TensorRT-LLM learn of it a step late) is not modelled. `ahead.compose`, vLLM's
scheduler itself, holds nobody back: it composes a step while the one before runs.
"""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.arrivals import find_next_arrival, pop_arrival, release_successors
from windtunnel.serving.composer import compose
from windtunnel.serving.ending import end_batch, end_step, note_batch
from windtunnel.serving.jit import cached_entry, inlined, njit
from windtunnel.serving.log import log_end, log_full, log_sample, log_start
from windtunnel.serving.queue import hold_back, let_in, push_back
from windtunnel.serving.routing import route
from windtunnel.serving.state import DEADLINE, DONE, IDLE, NEED_SPACE, OVERLOAD, RUNNING, STUCK, UNDER_WAY, WOKEN
from windtunnel.serving.timing import time_step

SAME_MOMENT_S = 1e-12
"""Requests that arrive this much after a step's end still make the next step."""


@njit
def _push_event(world: Any, replicas: Any, r: int) -> None:
    """Note the end of replica r's (oldest) step. Equal ends are ordered by replica."""
    end = replicas[r].end_s
    at = world.events
    world.events += 1
    while at > 0:
        parent = (at - 1) // 2
        other = replicas[parent].event
        if end > replicas[other].end_s or (end == replicas[other].end_s and r > other):
            break
        replicas[at].event = other
        at = parent
    replicas[at].event = r


@njit
def _pop_event(world: Any, replicas: Any) -> int:
    top = replicas[0].event
    world.events -= 1
    last = replicas[world.events].event
    end = replicas[last].end_s
    at = 0
    while True:
        child = 2 * at + 1
        if child >= world.events:
            break
        a = replicas[child].event
        if child + 1 < world.events:
            b = replicas[child + 1].event
            if replicas[b].end_s < replicas[a].end_s or (replicas[b].end_s == replicas[a].end_s and b < a):
                child += 1
                a = b
        if end < replicas[a].end_s or (end == replicas[a].end_s and last < a):
            break
        replicas[at].event = a
        at = child
    replicas[at].event = last
    return int(top)


@inlined
def _next_event_s(world: Any, replicas: Any) -> float:
    return float(replicas[replicas[0].event].end_s) if world.events > 0 else math.inf


@njit
def _push_pending(world: Any, replicas: Any, r: int, active: int) -> None:
    """Replica r is to start a step at this moment, after the arrivals."""
    replicas[world.pending].pending = r
    replicas[r].active = active
    replicas[r].pending_s = world.now_s
    world.pending += 1


@njit
def _end(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any,
    batches: Any, entries: Any, steps: Any,
) -> None:  # fmt: skip
    """The replica's (oldest) step ends now."""
    row = replica.log_row
    if world.queued:
        row = end_batch(world, requests, replica, slots, phase, blocks, cells, segments, batches, entries)
    else:
        end_step(world, requests, replica, slots, phase, blocks, cells)
    if world.recording:
        log_end(steps, replica, row)


@inlined
def _undisturbed(world: Any, replicas: Any, replica: Any) -> bool:
    """Whether nothing can happen to the replica before or at the end of its step."""
    end = replica.end_s
    if world.next_arrival_s <= end + SAME_MOMENT_S or end >= world.next_sample_s or end > world.deadline_s:
        return False
    if not world.dynamic:
        return True
    if replica.prefilling > 0 or replica.next_finish <= replica.tick:
        return False
    return bool(world.replicas == 1 or (world.pending == 1 and end < _next_event_s(world, replicas)))


@inlined
def _drive(
    world: Any, requests: Any, replicas: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any,
    token_cost: Any, sample_cost: Any, decode_cost: Any, stages: Any, batches: Any, entries: Any, log: Any, steps: Any,
    book: Any, r: int,
) -> None:  # fmt: skip
    """Let replica r start steps from its pending moment on, until one must be waited for."""
    replica = replicas[r]
    world.now_s = replica.pending_s
    while True:
        if world.recording and log_full(world, log, steps, replica):
            world.status = NEED_SPACE
            replica.pending_s = world.now_s
            return
        first_entry, first_preempted = world.entries, world.preempted
        replica.waiting -= replica.held
        compose(world, requests, replica, slots, phase, blocks, cells, segments, log, book)
        if world.status != RUNNING:
            return
        started = replica.step_tokens > 0 or replica.step_preempted > 0
        if replica.held > 0:
            let_in(world, requests, replica)
            if not started:
                continue
        if started:
            end_s = time_step(
                world, replica, token_cost, sample_cost, decode_cost, stages, world.now_s + replica.stall_s
            )
            replica.steps += 1
            replica.tokens += replica.step_tokens
            if world.recording:
                log_start(world, steps, replica, r, end_s, first_entry, first_preempted)
            if world.queued:
                note_batch(world, requests, replica, slots, batches, entries, end_s)
            else:
                replica.end_s = end_s
        if world.queued:
            if started and replica.in_flight < world.depth:
                continue
            replica.active = UNDER_WAY if replica.in_flight > 0 else IDLE
            break
        replica.active = UNDER_WAY if started else IDLE
        if not started or not _undisturbed(world, replicas, replica):
            break
        world.now_s = replica.end_s
        if world.recording or replica.prefilling > 0 or replica.next_finish <= replica.tick:
            _end(world, requests, replica, slots, phase, blocks, cells, segments, batches, entries, steps)
    world.pending -= 1
    if replica.active:
        _push_event(world, replicas, r)
    elif replica.waiting > 0:
        world.status = STUCK


@inlined
def _arrive(world: Any, requests: Any, replicas: Any) -> None:
    """Route every request that arrives at this moment; idle replicas are to start."""
    while world.next_arrival_s <= world.now_s + SAME_MOMENT_S:
        i = pop_arrival(world, requests)
        if not requests[i].fits:
            world.rejected += 1
            if world.dynamic:
                release_successors(world, requests, i)
            continue
        r = route(world, requests, replicas, i)
        replica = replicas[r]
        requests[i].replica = r
        if world.overlap and replica.active == UNDER_WAY:
            hold_back(requests, replica, i)
        else:
            push_back(world, requests, replica, i)
        if replica.waiting > world.max_waiting:
            world.status = OVERLOAD
        if replica.active == IDLE:
            _push_pending(world, replicas, r, WOKEN)


@cached_entry
def run_loop(
    world_rows: Any, requests: Any, replicas: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any,
    token_cost: Any, sample_cost: Any, decode_cost: Any, stages: Any, batches: Any, entries: Any, log: Any, steps: Any,
    series: Any, book: Any,
) -> int:  # fmt: skip
    """Run until nothing is left to do, or until `status` says why not; may be called again.

    Args are the arrays of `state.py`; those of one replica are rows of the arrays passed here.
    """
    world = world_rows[0]
    world.status = RUNNING
    find_next_arrival(world, requests)
    while world.status == RUNNING:
        while world.pending > 0:
            r = replicas[world.pending - 1].pending
            _drive(
                world, requests, replicas, slots[r], phase[r], blocks[r], cells[r], segments,
                token_cost, sample_cost, decode_cost, stages[r], batches[r], entries[r], log, steps,
                book[r], r,
            )  # fmt: skip
            if world.status != RUNNING:
                return int(world.status)
        end_s = _next_event_s(world, replicas)
        moment_s = min(world.next_arrival_s, end_s)
        if moment_s > world.next_sample_s and moment_s < math.inf:
            if world.samples >= len(series):
                world.status = NEED_SPACE
            else:
                log_sample(world, replicas, series)
            continue
        if moment_s == math.inf:
            world.status = DONE
        elif moment_s > world.deadline_s:
            world.now_s = world.deadline_s
            world.status = DEADLINE
        else:
            world.now_s = moment_s
            while end_s == moment_s:
                r = _pop_event(world, replicas)
                _end(
                    world, requests, replicas[r], slots[r], phase[r], blocks[r], cells[r], segments, batches[r],
                    entries[r], steps,
                )  # fmt: skip
                _push_pending(world, replicas, r, UNDER_WAY)
                end_s = _next_event_s(world, replicas)
            _arrive(world, requests, replicas)
    return int(world.status)
