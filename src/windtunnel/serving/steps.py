"""Pieces of a step that several schedulers share, on top of the primitives of `batch.py`.

A scheduler calls `begin` (swap.py), serves running requests, calls `advance`, admits waiting ones
with `start` and ends with `finish`. Every function takes the kernel's arrays in the order of
`compose`. The least important running request is the last by (key, arrival, row).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.admission import idle_hits, look_up, seat
from windtunnel.serving.batch import (
    admit,
    advance_decodes,
    advance_granted,
    blocks_short,
    finish_composing,
    grant,
    recount,
)
from windtunnel.serving.footprint import FROM_TICK, blocks_whole
from windtunnel.serving.jit import njit
from windtunnel.serving.log import log_entry, log_served
from windtunnel.serving.queue import before
from windtunnel.serving.state import DECODE, PREFILL
from windtunnel.serving.swap import evict, restore, settle

EXACT, POWER_OF_TWO, MAX_MODEL_LEN = 0, 1, 2
"""`WORLD.reserve`: how much output a scheduler that reserves memory expects of a request."""


@njit
def wanted_tokens(slot: Any) -> int:
    """Tokens that a running request could take in this step."""
    if slot.state == DECODE:
        return 0 if slot.flying > 0 else 1
    return int(slot.target - slot.start)


@njit
def update_generated(replica: Any, requests: Any, slot: Any) -> None:
    """Write a running request's generated tokens into its record (kept lazily while it decodes)."""
    if slot.state == DECODE:
        requests[slot.request].generated = requests[slot.request].output - (slot.finish_tick - replica.tick)


@njit
def worst_running(requests: Any, replica: Any, slots: Any) -> int:
    """The place in the running order of the least important request."""
    worst = 0
    for i in range(1, replica.running):
        if before(requests, slots[slots[worst].order].request, slots[slots[i].order].request):
            worst = i
    return int(worst)


@njit
def serve(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    state: int, budget: int, spare: int,
) -> int:  # fmt: skip
    """Give tokens to the running requests in this state, in their order, evicting where blocks run out.

    Args:
        world, requests, replica, slots, phase, blocks, cells, segments, log: the kernel's arrays.
        state: DECODE or PREFILL.
        budget: tokens left in the step.
        spare: blocks that must be free for each request whether or not it needs them.

    Returns:
        The budget that is left.
    """
    i = 0
    while i < replica.running and budget > 0:
        row = slots[i].order
        tokens = min(wanted_tokens(slots[row]), budget)
        if slots[row].state != state or tokens == 0:
            i += 1
            continue
        evicted = False
        while max(blocks_short(world, replica, slots[row], tokens), spare) > replica.free_blocks:
            victim = worst_running(requests, replica, slots)
            loser = slots[victim].order
            budget += slots[loser].chunk
            evict(world, requests, replica, slots, phase, blocks, cells, log, victim)
            if victim < i:
                i -= 1
            if loser == row:
                evicted = True
                break
            tokens = min(wanted_tokens(slots[row]), budget)
        if not evicted:
            grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
            budget -= tokens
            i += 1
    return int(budget)


@njit
def decode_all(world: Any, replica: Any, slots: Any, phase: Any, spare: int) -> bool:
    """Serve a step of nothing but decodes by the replica's sums, touching no request, if that is the same.

    It is when all running requests decode and the blocks for all of them (and `spare`) are free.
    Recording and prefix caching look at every request, so they take the long way.

    Returns:
        Whether the running requests were served (and `advance` must not be called).
    """
    if world.stages > 1 or world.prefix or world.recording or not FROM_TICK or replica.prefilling > 0:
        return False
    need = phase[replica.tick % world.block_size]
    if need + spare > replica.free_blocks or replica.running > world.budget:
        return False
    replica.free_blocks -= need
    replica.min_free = min(replica.min_free, replica.free_blocks)
    advance_decodes(world, replica)
    if world.window > 0 and replica.tick >= replica.next_saturation:
        recount(world, replica, slots, phase)
    return True


@njit
def advance(world: Any, replica: Any, slots: Any, phase: Any, log: Any) -> None:
    """Running requests have their tokens: note it, and let those that decode move on (call once a step)."""
    if world.recording:
        log_served(world, log, replica, slots, False)
    advance_granted(world, replica, slots, phase)


@njit
def serve_running(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> int:
    """Serve the decodes, then the prompts under way. Returns the budget that is left."""
    if decode_all(world, replica, slots, phase, 0):
        return int(world.budget - replica.decoding)
    budget = world.budget
    for state in (DECODE, PREFILL):
        budget = serve(world, requests, replica, slots, phase, blocks, cells, segments, log, state, budget, 0)
    advance(world, replica, slots, phase, log)
    return int(budget)


@njit
def cached_blocks(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, i: int
) -> int:
    """Leading blocks of the queue's head i that the prefix cache holds (0 without prefix caching)."""
    if not world.prefix:
        return 0
    return int(look_up(world, requests, replica, slots, blocks, cells, segments, i))


@njit
def tokens_left(world: Any, request: Any, hits: int) -> int:
    """Tokens that a waiting request has to compute: those neither cached nor on the host."""
    total = request.prompt + request.generated
    return int(total - min(max(hits * world.block_size, request.swapped), total - 1))


@njit
def blocks_needed(world: Any, requests: Any, replica: Any, blocks: Any, cells: Any, i: int, hits: int) -> int:
    """Free blocks that the queue's head i takes until its whole sequence so far is computed."""
    total = requests[i].prompt + requests[i].generated
    need = blocks_whole(world, total) - hits
    if hits > 0:
        need += idle_hits(blocks, cells[replica.head_row], hits)
    return int(need)


@njit
def start(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, hits: int,
    tokens: int,
) -> int:  # fmt: skip
    """Admit the head of the queue with its cached blocks and first chunk. Returns its slot."""
    i = replica.head
    row = seat(world, requests, replica, slots, blocks, cells, i, hits)
    admit(world, requests, replica, slots, row)
    if requests[i].swapped > 0:
        restore(world, requests, replica, slots[row])
    grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
    if world.recording:
        log_entry(world, log, i, tokens)
    return int(row)


@njit
def admit_fitting(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int
) -> int:
    """Admit from the head of the queue while seats, tokens and the blocks of whole sequences last.

    A prompt is cut to what is left of the budget if prefill may be chunked, else it must fit.
    Returns the budget that is left.
    """
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = tokens_left(world, requests[i], hits)
        if not world.chunked and tokens > budget:
            break
        tokens = min(tokens, budget)
        need = blocks_needed(world, requests, replica, blocks, cells, i, hits)
        if replica.running > 0:
            need += world.watermark_blocks
        if need > replica.free_blocks:
            break
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        budget -= tokens
    return int(budget)


@njit
def expected_tokens(world: Any, request: Any) -> int:
    """Prompt and output for which memory is reserved."""
    output = request.output
    if world.reserve == MAX_MODEL_LEN:
        return int(world.max_model_len)
    if world.reserve == POWER_OF_TWO:
        output = 1
        while output < request.output:
            output *= 2
    return int(min(request.prompt + output, world.max_model_len))


@njit
def blocks_to_end(world: Any, request: Any) -> int:
    """Blocks reserved for a request until it ends (the last token is never computed), at most all there are."""
    need = blocks_whole(world, expected_tokens(world, request) - 1)
    return int(min(max(need, 1), world.usable_blocks))


@njit
def reserved_blocks(world: Any, requests: Any, replica: Any, slots: Any) -> int:
    """Blocks reserved for the running requests until they end."""
    total = 0
    for i in range(replica.running):
        total += blocks_to_end(world, requests[slots[slots[i].order].request])
    return total


@njit
def admit_reserving(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int
) -> int:
    """Admit from the head of the queue as far as what all admitted requests may ever need fits together.

    Returns the budget that is left. What is found in the prefix cache lowers the work, not the reservation.
    """
    reserved = reserved_blocks(world, requests, replica, slots)
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        reserved += blocks_to_end(world, requests[i])
        if requests[i].stale > 0 or reserved > world.usable_blocks:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = tokens_left(world, requests[i], hits)
        if not world.chunked and tokens > budget:
            break
        tokens = min(tokens, budget)
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        budget -= tokens
    return int(budget)


@njit
def finish(world: Any, replica: Any, slots: Any) -> None:
    """Complete the composed step."""
    finish_composing(world, replica, slots)
    settle(world, replica)
