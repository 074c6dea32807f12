"""The end of a step composed ahead or with drafts: tokens become known, rejected drafts are taken back.

Stands in the place of `serving/ending.py` (see there). The tokens of a request that was preempted
while its step was under way are kept, also when they are its last.
"""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.arrivals import release_successors
from windtunnel.serving.batch import vacate
from windtunnel.serving.jit import njit
from windtunnel.serving.kv_cache import cache_full
from windtunnel.serving.queue import pop_head, push_front


@njit
def end_step(world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any) -> None:
    """Never called: every step is noted and ended as a batch."""


@njit
def note_batch(world: Any, requests: Any, replica: Any, slots: Any, batches: Any, entries: Any, end_s: float) -> None:
    """Remember whom the composed step holds until it ends."""
    b = (replica.first_batch + replica.in_flight) % world.depth
    count = 0
    for i in range(replica.running):
        row = slots[i].order
        slot = slots[row]
        if slot.chunk == 0:
            continue
        entry = entries[b, count]
        entry.request = slot.request
        entry.row = row
        entry.epoch = requests[slot.request].preemptions
        entry.samples = 0 if slot.in_prompt else 1
        entry.drafts = slot.verified
        entry.accepted = slot.accepted
        entry.proposed = slot.proposed
        slot.chunk = slot.verified = 0
        slot.flying += 1
        count += 1
    batches[b].entries = count
    batches[b].end_s = end_s
    batches[b].log_row = replica.log_row
    if replica.in_flight == 0:
        replica.end_s = end_s
    replica.in_flight += 1


@njit
def _deliver(world: Any, requests: Any, i: int, tokens: int) -> None:
    request = requests[i]
    if math.isnan(request.first_token_s):
        request.first_token_s = world.now_s
    request.generated += tokens
    if request.generated == request.output:
        request.finish_s = world.now_s


@njit
def _note_finished(world: Any, requests: Any, replica: Any, i: int) -> None:
    requests[i].next = replica.finished
    replica.finished = i
    if world.dynamic:
        release_successors(world, requests, i)


@njit
def _leave_queue(world: Any, requests: Any, replica: Any, i: int) -> None:
    """Take a waiting request out of the queue: those before it are popped and put back."""
    aside = -1
    while replica.head != i:
        j = pop_head(world, requests, replica)
        requests[j].next = aside
        aside = j
    pop_head(world, requests, replica)
    while aside >= 0:
        following = requests[aside].next
        requests[aside].next = -1
        push_front(world, requests, replica, aside)
        aside = following


@njit
def _end_stale(world: Any, requests: Any, replica: Any, entry: Any) -> None:
    """A step ends that held a request which has been preempted since: its tokens count all the same."""
    i = entry.request
    requests[i].stale -= 1
    replica.blocked = -1
    replica.head_request = -1
    if entry.samples:
        _deliver(world, requests, i, min(1 + entry.accepted, requests[i].output - requests[i].generated))
        if not math.isnan(requests[i].finish_s):
            _leave_queue(world, requests, replica, i)
            _note_finished(world, requests, replica, i)


@njit
def _retire(world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, row: int) -> None:
    """The slot's request has finished."""
    at = 0
    while slots[at].order != row:
        at += 1
    for j in range(at, replica.running - 1):
        slots[j].order = slots[j + 1].order
    replica.running -= 1
    vacate(world, replica, slots, phase, blocks, cells, row)
    _note_finished(world, requests, replica, slots[row].request)


@njit
def _end_entry(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, entry: Any
) -> None:
    i, row = entry.request, entry.row
    if not math.isnan(requests[i].finish_s):
        return  # it finished while this step was under way
    if requests[i].preemptions != entry.epoch:
        _end_stale(world, requests, replica, entry)
        return
    slot = slots[row]
    slot.flying -= 1
    if not entry.samples:
        return
    rejected = entry.drafts - entry.accepted
    tokens = min(1 + entry.accepted, requests[i].output - requests[i].generated)
    slot.start -= rejected
    slot.target += tokens
    if world.asynchronous:
        slot.placeholders -= rejected + tokens
    else:
        slot.drafts = entry.proposed
    _deliver(world, requests, i, tokens)
    if world.asynchronous and world.prefix:
        full = (slot.start - slot.placeholders) // world.block_size
        if full > slot.cached_blocks:
            cache_full(
                world, requests, replica, slot, slots, blocks, cells[row], segments, cells[replica.head_row], full
            )
    if not math.isnan(requests[i].finish_s):
        _retire(world, requests, replica, slots, phase, blocks, cells, row)


@njit
def end_batch(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any,
    batches: Any, entries: Any,
) -> int:  # fmt: skip
    """Process the oldest step under way, which ends now. Returns its log row."""
    b = replica.first_batch
    for e in range(batches[b].entries):
        _end_entry(world, requests, replica, slots, phase, blocks, cells, segments, entries[b, e])
    replica.first_batch = (b + 1) % world.depth
    replica.in_flight -= 1
    if replica.in_flight > 0:
        replica.end_s = batches[replica.first_batch].end_s
    return int(batches[b].log_row)
