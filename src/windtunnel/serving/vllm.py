"""The scheduler of vLLM's v1 engine (0.32, asynchronous scheduling off).

Every step first serves the running requests in their order, then the waiting ones, from one
budget of tokens. A prompt may be served in chunks. When blocks run out the last running
request (by priority: the least important, latest one) is preempted and recomputed later, and
nothing waiting is admitted in that step. A waiting request is admitted when its whole
sequence so far fits into the free blocks.

The rules follow vllm/v1/core/sched/scheduler.py and kv_cache_manager.py of that release. Two
paths do the same: `_serve_all` when it is certain that every running request gets its tokens
without preemption (no request is touched then but those in prefill), `grant_in_order` else.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.admission import idle_hits, look_up, seat
from windtunnel.serving.batch import (
    admit,
    advance_decodes,
    advance_granted,
    blocks_short,
    clear_step,
    finish_composing,
    grant,
    preempt,
    recount,
)
from windtunnel.serving.footprint import FROM_TICK, blocks_whole
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.log import log_entry, log_preempted, log_served
from windtunnel.serving.state import DECODE, PREFILL


@inlined
def _wanted(replica: Any, slot: Any) -> int:
    """Tokens that a running request would take in this step, were the budget unlimited."""
    if slot.state == DECODE:
        return 0 if slot.flying > 0 else 1
    wanted = slot.target - slot.start
    if 0 < replica.threshold < wanted:
        return int(replica.threshold)
    return int(wanted)


@inlined
def _last_chunk(world: Any, replica: Any, slots: Any, phase: Any) -> int:
    """Tokens of the one prefill under way if all running requests can be served, else -1.

    A prompt that did not fit the budget is the last in the running order, as nothing is
    admitted after it; only a limit on long prompts lets others come behind.
    """
    if world.stages > 1 or replica.prefilling > 1 or not FROM_TICK:
        return -1
    need = phase[replica.tick % world.block_size]
    chunk = 0
    if replica.prefilling == 1:
        slot = slots[slots[replica.running - 1].order]
        if slot.state != PREFILL:
            return -1
        chunk = min(_wanted(replica, slot), world.budget - replica.decoding)
        need += blocks_short(world, replica, slot, chunk)
    return int(chunk) if need <= replica.free_blocks else -1


@inlined
def _serve_all(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    chunk: int,
) -> int:  # fmt: skip
    """Every running request gets its tokens. Returns the budget that is left."""
    need = phase[replica.tick % world.block_size]
    if not world.prefix:
        replica.free_blocks -= need
        replica.min_free = min(replica.min_free, replica.free_blocks)
    elif need > 0 or phase[(replica.tick + 1) % world.block_size] > 0:
        for i in range(replica.running):
            row = slots[i].order
            slot = slots[row]
            if slot.state == DECODE:
                at = (slot.start + replica.tick) % world.block_size
                if at == 0 or at == world.block_size - 1:
                    tokens = _wanted(replica, slot)
                    grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
                    slot.chunk = 0
    if chunk > 0:
        row = slots[replica.running - 1].order
        grant(world, requests, replica, slots, blocks, cells, segments, row, chunk)
    if world.recording:
        log_served(world, log, replica, slots, True)
    advance_decodes(world, replica)
    if world.window > 0 and replica.tick >= replica.next_saturation:
        recount(world, replica, slots, phase)
    return int(world.budget - replica.decoding - chunk)


@njit
def _victim(world: Any, requests: Any, replica: Any, slots: Any) -> int:
    """The place in the running order of the request to preempt."""
    worst = replica.running - 1
    if world.ordered:
        worst = 0
        for i in range(1, replica.running):
            a = requests[slots[slots[i].order].request]
            b = requests[slots[slots[worst].order].request]
            if a.key > b.key or (a.key == b.key and a.arrival_s > b.arrival_s):
                worst = i
    return int(worst)


@njit
def grant_in_order(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> int:
    """Grant the running requests their tokens one by one, preempting where blocks run out; the budget that is left."""
    budget = world.budget
    i = 0
    while i < replica.running and budget > 0:
        row = slots[i].order
        tokens = min(_wanted(replica, slots[row]), budget)
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
    return int(budget)


@inlined
def advance_served(world: Any, replica: Any, slots: Any, phase: Any, log: Any) -> None:
    """The running requests that were granted tokens one by one advance."""
    if world.recording:
        log_served(world, log, replica, slots, False)
    advance_granted(world, replica, slots, phase)


@inlined
def admit_head(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int
) -> int:
    """Admit the head of the queue if budget and blocks allow it: the tokens it is given, or 0 when it has to wait."""
    i = replica.head
    if i == replica.blocked and replica.running > 0 and replica.blocked_need > replica.free_blocks:
        return 0
    if requests[i].stale > 0:
        return 0
    target = requests[i].prompt + requests[i].generated
    hits = 0
    if world.prefix:
        hits = look_up(world, requests, replica, slots, blocks, cells, segments, i)
    tokens = target - hits * world.block_size
    if 0 < replica.threshold < tokens:
        tokens = replica.threshold
    if not world.chunked and tokens > budget:
        return 0
    tokens = min(tokens, budget)
    need = blocks_whole(world, target) - hits
    if hits > 0:
        need += idle_hits(blocks, cells[replica.head_row], hits)
    if replica.running > 0:
        need += world.watermark_blocks
    if need > replica.free_blocks:
        replica.blocked = i
        replica.blocked_need = need
        return 0
    replica.blocked = -1
    row = seat(world, requests, replica, slots, blocks, cells, i, hits)
    admit(world, requests, replica, slots, row)
    grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
    if world.recording:
        log_entry(world, log, i, tokens)
    return int(tokens)


@inlined
def _admit_waiting(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int
) -> None:
    """Admit from the head of the queue while budget, places and blocks last."""
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        tokens = admit_head(world, requests, replica, slots, blocks, cells, segments, log, budget)
        if tokens == 0:
            break
        budget -= tokens


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step; the outcome is in the slots and the step's sums."""
    clear_step(replica)
    replica.threshold = world.threshold if replica.running + replica.waiting > 1 else 0
    chunk = _last_chunk(world, replica, slots, phase)
    if chunk >= 0:
        budget = _serve_all(world, requests, replica, slots, phase, blocks, cells, segments, log, chunk)
    else:
        budget = grant_in_order(world, requests, replica, slots, phase, blocks, cells, segments, log)
        advance_served(world, replica, slots, phase, log)
    if replica.waiting > 0 and replica.step_preempted == 0:
        _admit_waiting(world, requests, replica, slots, blocks, cells, segments, log, budget)
    finish_composing(world, replica, slots)
