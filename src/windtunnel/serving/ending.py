"""What happens when a step ends: tokens are counted, prompts become decodes, requests finish.

`end_step` serves a replica that has one step under way. With several (`world.queued`) `note_batch`
remembers whom a composed step holds and `end_batch` processes the oldest one. A scheduler that
counts its tokens in another way puts a module with the same three functions in the place of this
one (`kernel.py`).
"""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.arrivals import release_successors
from windtunnel.serving.batch import enter_decode, first_prefill, vacate
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.state import DECODE, NEVER


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
def end_step(world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any) -> None:
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
def note_batch(world: Any, requests: Any, replica: Any, slots: Any, batches: Any, entries: Any, end_s: float) -> None:
    """Several steps under way: remember whom the composed step holds until it ends."""
    b = (replica.first_batch + replica.in_flight) % world.depth
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
def end_batch(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any,
    batches: Any, entries: Any,
) -> int:  # fmt: skip
    """Several steps under way: process the oldest step under way, which ends now. Returns its log row."""
    b = replica.first_batch
    for e in range(batches[b].entries):
        _end_entry(world, requests, replica, slots, phase, blocks, cells, entries[b, e])
    replica.first_batch = (b + 1) % world.depth
    replica.in_flight -= 1
    if replica.in_flight > 0:
        replica.end_s = batches[replica.first_batch].end_s
    return int(batches[b].log_row)
