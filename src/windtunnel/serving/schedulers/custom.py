"""A scheduler that asks the user's functions (see `hooks.py`).

It composes as vLLM does: running requests in their order, then waiting ones, from one budget of
tokens. The hooks say which waiting request is next, which running one is preempted when blocks
run out, how many prompt tokens a request gets, and whether one is admitted now.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import (
    advance_granted,
    blocks_short,
    clear_step,
    computed_tokens,
    finish_composing,
    grant,
    preempt,
)
from windtunnel.serving.hooks import admits, chunk_tokens, victim_key, waiting_key
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.log import log_preempted, log_served
from windtunnel.serving.queue import bring_forward
from windtunnel.serving.state import DECODE, RUNNING
from windtunnel.serving.steps import blocks_needed, cached_blocks, start, update_generated, wanted_tokens


@njit
def _victim(world: Any, requests: Any, replica: Any, slots: Any) -> int:
    """The place in the running order of the request to preempt."""
    worst, largest = replica.running - 1, 0.0
    for i in range(replica.running):
        slot = slots[slots[i].order]
        update_generated(replica, requests, slot)
        key = victim_key(world, requests[slot.request], replica, i, computed_tokens(replica, slot))
        if i == 0 or key >= largest:
            worst, largest = i, key
    return int(worst)


@njit
def _serve_running(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> int:
    budget = world.budget
    i = 0
    while i < replica.running and budget > 0 and world.status == RUNNING:
        row = slots[i].order
        slot = slots[row]
        tokens = min(wanted_tokens(slot), budget)
        if tokens > 0 and slot.state != DECODE:
            tokens = chunk_tokens(world, requests[slot.request], replica, wanted_tokens(slot), budget)
        if tokens == 0:
            i += 1
            continue
        evicted = False
        while blocks_short(world, replica, slots[row], tokens) > replica.free_blocks:
            victim = _victim(world, requests, replica, slots)
            loser = slots[victim].order
            budget += slots[loser].chunk
            log_preempted(world, log, slots[loser].request)
            preempt(world, requests, replica, slots, phase, blocks, cells, victim)
            if victim < i:
                i -= 1
            if loser == row:
                evicted = True
                break
        if evicted:
            break
        grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
        budget -= tokens
        i += 1
    if world.recording:
        log_served(world, log, replica, slots, False)
    advance_granted(world, replica, slots, phase)
    return int(budget)


@njit
def _rank_waiting(world: Any, requests: Any, replica: Any) -> None:
    """Ask for every waiting request's key."""
    if world.hook_order == 0:
        return
    i = replica.head
    while i >= 0:
        requests[i].key = waiting_key(world, requests[i], replica)
        i = requests[i].next


@njit
def _admit_waiting(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int
) -> None:
    _rank_waiting(world, requests, replica)
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs and world.status == RUNNING:
        if world.hook_order != 0:
            bring_forward(requests, replica)
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        wanted = requests[i].prompt + requests[i].generated - hits * world.block_size
        if not world.chunked and wanted > budget:
            break
        need = blocks_needed(world, requests, replica, blocks, cells, i, hits)
        spare = world.watermark_blocks if replica.running > 0 else 0
        if need + spare > replica.free_blocks:
            break
        if not admits(world, requests[i], replica, need, replica.free_blocks):
            break
        tokens = chunk_tokens(world, requests[i], replica, wanted, budget)
        if tokens == 0:
            break
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        budget -= tokens


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    clear_step(replica)
    budget = _serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    if replica.step_preempted == 0:
        _admit_waiting(world, requests, replica, slots, blocks, cells, segments, log, budget)
    finish_composing(world, replica, slots)
