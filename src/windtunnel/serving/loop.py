"""The event loop: arrivals, steps and their ends, for one replica or a thousand.

Order at equal times: steps end, requests arrive (within 1e-12 s), steps start. A replica that
nobody can disturb before its step ends goes on to its next step at once, without an event:
between two arrivals replicas do not influence each other.
"""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.arrivals import find_next_arrival, pop_arrival, release_successors
from windtunnel.serving.batch import enter_decode, first_prefill, vacate
from windtunnel.serving.composer import compose
from windtunnel.serving.jit import cached_entry, inlined, njit
from windtunnel.serving.log import log_end, log_full, log_sample, log_start
from windtunnel.serving.price import time_step
from windtunnel.serving.queue import push_back
from windtunnel.serving.routing import route
from windtunnel.serving.state import DEADLINE, DECODE, DONE, NEED_SPACE, NEVER, OVERLOAD, RUNNING, STUCK

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
def _push_pending(world: Any, replicas: Any, r: int) -> None:
    """Replica r is to start a step at this moment, after the arrivals."""
    replicas[world.pending].pending = r
    replicas[r].active = 1
    replicas[r].pending_s = world.now_s
    world.pending += 1


@njit
def _finish(world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, row: int) -> None:
    i = slots[row].request
    requests[i].finish_s = world.now_s
    requests[i].generated = requests[i].output
    requests[i].next = replica.finished
    replica.finished = i
    vacate(world, replica, slots, phase, blocks, cells, row)
    if world.dynamic:
        release_successors(world, requests, i)


@njit
def _first_token(world: Any, requests: Any, i: int) -> int:
    """Request i's prompt is done and gave a token. Returns the tokens still to come."""
    request = requests[i]
    if math.isnan(request.first_token_s):
        request.first_token_s = world.now_s
    request.generated += 1
    return int(request.output - request.generated)


@inlined
def _end_step(world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any) -> None:
    """Process the tokens of the step that ends now (one stage: all of the replica's tokens)."""
    due = replica.next_finish <= replica.tick
    start = 0 if due else first_prefill(replica, slots)
    if due:
        replica.next_finish = NEVER
    kept = start
    for i in range(start, replica.running):
        row = slots[i].order
        slot = slots[row]
        if slot.state == DECODE:
            if slot.finish_tick <= replica.tick:
                _finish(world, requests, replica, slots, phase, blocks, cells, row)
                continue
            replica.next_finish = min(replica.next_finish, slot.finish_tick)
        elif slot.start == slot.target:
            left = _first_token(world, requests, slot.request)
            if left == 0:
                _finish(world, requests, replica, slots, phase, blocks, cells, row)
                continue
            enter_decode(world, replica, slot, phase, left)
        slots[kept].order = row
        kept += 1
    replica.running = kept


@njit
def _note_batch(world: Any, requests: Any, replica: Any, slots: Any, batches: Any, entries: Any, end_s: float) -> None:
    """Several stages: remember whom the composed step holds until it ends."""
    b = (replica.first_batch + replica.in_flight) % world.stages
    count = 0
    for i in range(replica.running):
        row = slots[i].order
        slot = slots[row]
        if slot.scheduled == 0:
            continue
        slot.scheduled = 0
        slot.flying += 1
        entry = entries[b, count]
        entry.request = slot.request
        entry.row = row
        entry.epoch = requests[slot.request].preemptions
        entry.samples = 1 if slot.state == DECODE or slot.start == slot.target else 0
        count += 1
    batches[b].entries = count
    batches[b].end_s = end_s
    batches[b].log_row = replica.log_row
    if replica.in_flight == 0:
        replica.end_s = end_s
    replica.in_flight += 1


@njit
def _end_entry(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, entry: Any
) -> None:
    i, row = entry.request, entry.row
    slot = slots[row]
    if requests[i].preemptions != entry.epoch:
        # Preempted meanwhile. Its token still counts, unless it were the last one, which the
        # recomputation gives again.
        requests[i].stale -= 1
        replica.blocked = -1
        replica.head_request = -1
        if entry.samples and requests[i].generated + 1 < requests[i].output:
            _first_token(world, requests, i)
        return
    slot.flying -= 1
    if not entry.samples:
        return
    if slot.state == DECODE:
        slot.finish_tick -= 1
        left = slot.finish_tick
    else:
        left = _first_token(world, requests, i)
        if left > 0:
            enter_decode(world, replica, slot, phase, left)
    if left == 0:
        at = 0
        while slots[at].order != row:
            at += 1
        for j in range(at, replica.running - 1):
            slots[j].order = slots[j + 1].order
        replica.running -= 1
        _finish(world, requests, replica, slots, phase, blocks, cells, row)


@njit
def _end_batch(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, batches: Any, entries: Any
) -> int:
    """Several stages: process the oldest step under way, which ends now. Returns its log row."""
    b = replica.first_batch
    for e in range(batches[b].entries):
        _end_entry(world, requests, replica, slots, phase, blocks, cells, entries[b, e])
    replica.first_batch = (b + 1) % world.stages
    replica.in_flight -= 1
    if replica.in_flight > 0:
        replica.end_s = batches[replica.first_batch].end_s
    return int(batches[b].log_row)


@njit
def _end(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, batches: Any,
    entries: Any, steps: Any,
) -> None:  # fmt: skip
    """The replica's (oldest) step ends now."""
    row = replica.log_row
    if world.stages == 1:
        _end_step(world, requests, replica, slots, phase, blocks, cells)
    else:
        row = _end_batch(world, requests, replica, slots, phase, blocks, cells, batches, entries)
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


@njit
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
        compose(world, requests, replica, slots, phase, blocks, cells, segments, log, book)
        if world.status != RUNNING:
            return
        started = replica.step_tokens > 0 or replica.step_preempted > 0
        if started:
            end_s = time_step(
                world, replica, token_cost, sample_cost, decode_cost, stages, world.now_s + replica.stall_s
            )
            replica.steps += 1
            replica.tokens += replica.step_tokens
            if world.recording:
                log_start(world, steps, replica, r, end_s, first_entry, first_preempted)
            if world.stages > 1:
                _note_batch(world, requests, replica, slots, batches, entries, end_s)
            else:
                replica.end_s = end_s
        if world.stages > 1:
            if started and replica.in_flight < world.stages:
                continue
            replica.active = 1 if replica.in_flight > 0 else 0
            break
        replica.active = 1 if started else 0
        if not started or not _undisturbed(world, replicas, replica):
            break
        world.now_s = replica.end_s
        if world.recording or replica.prefilling > 0 or replica.next_finish <= replica.tick:
            _end(world, requests, replica, slots, phase, blocks, cells, batches, entries, steps)
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
        push_back(world, requests, replica, i)
        if replica.waiting > world.max_waiting:
            world.status = OVERLOAD
        if replica.active == 0:
            _push_pending(world, replicas, r)


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
                    world, requests, replicas[r], slots[r], phase[r], blocks[r], cells[r], batches[r], entries[r], steps
                )
                _push_pending(world, replicas, r)
                end_s = _next_event_s(world, replicas)
            _arrive(world, requests, replicas)
    return int(world.status)
