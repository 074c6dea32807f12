"""SGLang: longest prefix match first, prompts before decodes, admission by a ratio that adapts.

Waiting requests with the longest prefix in the radix cache come first (first come first served
beyond 128 waiting). A prompt is admitted when what it may need (prompt plus longest output, of
which at most 4096 tokens count) fits into the tokens that are free or can be evicted, less the
share `new_token_ratio` of what the running requests may still generate. Prompts are computed in steps of
their own, chunked to the budget. The ratio falls from its first value to its least over 600 decode
steps and is set anew from what was really generated when memory runs out; then the
requests with the least output (of equals the longest prompt) are retracted and recomputed. The
radix cache is a prefix cache with one token to a block: set `block_size` to 1 for it.

L. Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs", NeurIPS
2024, section 3; SGLang, python/sglang/srt/managers/schedule_policy.py, schedule_batch.py
(`retract_decode`) and environ.py (0.7, 0.14, 600).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import advance_granted, blocks_short
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.queue import bring_forward
from windtunnel.serving.state import DECODE, PREFILL
from windtunnel.serving.steps import (
    advance,
    blocks_needed,
    cached_blocks,
    decode_all,
    expected_tokens,
    finish,
    serve,
    start,
    tokens_left,
    update_generated,
    wanted_tokens,
)
from windtunnel.serving.swap import begin, evict

LONGEST_COUNTED_TOKENS = 4096
"""`CLIP_MAX_NEW_TOKENS`: of an output more is not reserved."""
MOST_MATCHED = 128
"""Beyond this many waiting requests their prefixes are not looked up."""
RETRACT_STEPS = 20
"""`retract_decode_steps`: after retracting, room is expected for so many steps more."""

# `book`: the ratio (0: not begun).


@njit
def _new_tokens(world: Any, request: Any) -> int:
    """The most output that is counted for a request."""
    return int(min(expected_tokens(world, request) - request.prompt, LONGEST_COUNTED_TOKENS))


@njit
def _match(world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any) -> None:
    """Rank the waiting requests by their cached prefix."""
    matched = world.prefix and replica.waiting <= MOST_MATCHED
    i = replica.head
    while i >= 0:
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i) if matched else 0
        requests[i].key = -float(hits)
        i = requests[i].next


@njit
def _room(world: Any, requests: Any, replica: Any, slots: Any, ratio: float) -> float:
    """Tokens that may be promised to new requests."""
    room = float(replica.free_blocks * world.block_size)
    for k in range(replica.running):
        slot = slots[slots[k].order]
        update_generated(replica, requests, slot)
        request = requests[slot.request]
        room -= max(0, _new_tokens(world, request) - request.generated) * ratio
        if slot.state == PREFILL:
            room -= wanted_tokens(slot)
    return room


@njit
def _prefill(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    ratio: float,
) -> int:  # fmt: skip
    """Go on with the chunked prompt, then admit. Returns the budget that is left."""
    budget = serve(world, requests, replica, slots, phase, blocks, cells, segments, log, PREFILL, world.budget, 0)
    served = budget < world.budget
    if served:
        advance(world, replica, slots, phase, log)
    if replica.waiting == 0 or replica.running >= world.max_num_seqs or budget == 0:
        return int(budget)
    _match(world, requests, replica, slots, blocks, cells, segments)
    room = _room(world, requests, replica, slots, ratio)
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        bring_forward(requests, replica)
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = tokens_left(world, requests[i], hits)
        if not world.chunked and tokens > budget:
            break
        promised = tokens + max(0, _new_tokens(world, requests[i]) - requests[i].generated)
        if replica.running > 0 and promised >= room:
            break
        if blocks_needed(world, requests, replica, blocks, cells, i, hits) > replica.free_blocks:
            break
        tokens = min(tokens, budget)
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        room -= promised
        budget -= tokens
    if not served and budget < world.budget:
        advance_granted(world, replica, slots, phase)  # nobody decodes
    return int(budget)


@njit
def _retract(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, log: Any, book: Any
) -> None:
    """Make room for one token of every running request."""
    short = False
    while replica.running > 0 and _blocks_for_a_token(world, replica, slots) > replica.free_blocks:
        loser = 0
        for k in range(replica.running):
            update_generated(replica, requests, slots[slots[k].order])
            one, other = requests[slots[slots[k].order].request], requests[slots[slots[loser].order].request]
            if one.generated < other.generated or (one.generated == other.generated and one.prompt > other.prompt):
                loser = k
        evict(world, requests, replica, slots, phase, blocks, cells, log, loser)
        short = True
    if not short:
        return
    generated, most = 0, 0
    for k in range(replica.running):
        request = requests[slots[slots[k].order].request]
        generated += request.generated
        most += _new_tokens(world, request)
    book[0] = min(1.0, (generated + RETRACT_STEPS * replica.running) / max(most, 1))


@njit
def _blocks_for_a_token(world: Any, replica: Any, slots: Any) -> int:
    need = 0
    for k in range(replica.running):
        slot = slots[slots[k].order]
        if slot.state == DECODE and slot.flying == 0:
            need += blocks_short(world, replica, slot, 1)
    return need


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    if replica.running == 0 or book[0] == 0.0:
        book[0] = world.ratio_first
    if replica.waiting > 0 or replica.prefilling > 0:
        budget = _prefill(world, requests, replica, slots, phase, blocks, cells, segments, log, book[0])
        if budget < world.budget:
            finish(world, replica, slots)
            return
    if not decode_all(world, replica, slots, phase, 0):
        _retract(world, requests, replica, slots, phase, blocks, cells, log, book)
        serve(world, requests, replica, slots, phase, blocks, cells, segments, log, DECODE, world.budget, 0)
        advance(world, replica, slots, phase, log)
    step = (world.ratio_first - world.ratio_least) / world.ratio_steps
    book[0] = max(book[0] - step, world.ratio_least)
    finish(world, replica, slots)
