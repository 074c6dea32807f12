"""LightLLM: admission by the predicted peak of memory (the past-future scheduler).

Prompts are computed in steps of their own. A waiting request joins when the peak of memory that
the batch will reach with it fits: lengths of outputs are drawn from those of the last
`history` finished requests, given that they are longer than what has been generated ("past"),
and the peak over the coming steps follows from the order in which the requests then end
("future"). Nothing known yet, the longest possible output is assumed. When blocks run out all the
same, the latest request is paused and recomputed. LightLLM's cache has one token to a block.

R. Gong et al., "Past-Future Scheduler for LLM Serving under SLA Guarantees", ASPLOS 2025,
section 3; LightLLM, lightllm/server/router/req_queue.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import advance_granted, held_blocks
from windtunnel.serving.jit import inlined, mix, njit
from windtunnel.serving.state import DECODE
from windtunnel.serving.steps import (
    advance,
    blocks_needed,
    cached_blocks,
    decode_all,
    finish,
    serve,
    start,
    tokens_left,
    update_generated,
)
from windtunnel.serving.swap import begin

# `book`: how many lengths were seen; the last `history` of them in order of arrival; the same
# sorted; and room for the blocks held and still to come of each running request.


@njit
def _remember(world: Any, requests: Any, replica: Any, book: Any) -> None:
    """Take in the lengths of requests that finished."""
    w = world.history
    i = replica.finished
    while i >= 0:
        seen = int(book[0])
        count = min(seen, w)
        value = float(requests[i].output)
        if seen >= w:  # the oldest leaves
            old = book[1 + seen % w]
            at = _above(book, 1 + w, count, old) - 1
            for k in range(at, count - 1):
                book[1 + w + k] = book[2 + w + k]
            count -= 1
        at = _above(book, 1 + w, count, value)
        for k in range(count, at, -1):
            book[1 + w + k] = book[w + k]
        book[1 + w + at] = value
        book[1 + seen % w] = value
        book[0] = seen + 1
        i = requests[i].next
    replica.finished = -1


@njit
def _above(book: Any, first: int, count: int, value: float) -> int:
    """How many of the sorted lengths are at most this."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if book[first + middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def _predict(world: Any, request: Any, i: int, book: Any) -> int:
    """Output still to come, drawn from the lengths seen that exceed what has been generated."""
    w = world.history
    count = min(int(book[0]), w)
    low = _above(book, 1 + w, count, float(request.generated))
    longest = world.max_model_len - request.prompt
    if low >= count:
        return int(max(longest - request.generated, 1))
    world.draws += 1
    drawn = low + (mix(mix(world.seed, i), world.draws) & 0x7FFFFFFF) % (count - low)
    return int(min(int(book[1 + w + drawn]), longest) - request.generated)


@njit
def _insert(world: Any, book: Any, count: int, held: int, left: int) -> None:
    """Keep the batch sorted by output still to come, longest first."""
    base = 1 + 2 * world.history
    at = count
    while at > 0 and book[base + 2 * at - 1] < left:
        book[base + 2 * at] = book[base + 2 * at - 2]
        book[base + 2 * at + 1] = book[base + 2 * at - 1]
        at -= 1
    book[base + 2 * at] = held
    book[base + 2 * at + 1] = left


@njit
def _peak(world: Any, book: Any, count: int) -> int:
    """Blocks in use at the worst moment: when the k-th longest ends, k requests have grown that far."""
    base = 1 + 2 * world.history
    peak, held = 0, 0.0
    for k in range(count):
        held += book[base + 2 * k]
        growth = (k + 1) * ((int(book[base + 2 * k + 1]) + world.block_size - 1) // world.block_size)
        peak = max(peak, int(held) + growth)
    return peak


@njit
def _admit(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, book: Any
) -> int:
    """Admit whole prompts while the predicted peak fits. Returns the budget that is left."""
    for k in range(replica.running):
        slot = slots[slots[k].order]
        update_generated(replica, requests, slot)
        left = _predict(world, requests[slot.request], slot.request, book)
        _insert(world, book, k, held_blocks(world, replica, slot), left)
    count, budget = replica.running, world.budget
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = tokens_left(world, requests[i], hits)
        need = blocks_needed(world, requests, replica, blocks, cells, i, hits)
        if tokens > budget or need > replica.free_blocks:
            break
        _insert(world, book, count, need, _predict(world, requests[i], i, book))
        count += 1
        if replica.running > 0 and _peak(world, book, count) > world.usable_blocks:
            break
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        budget -= tokens
    return int(budget)


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    _remember(world, requests, replica, book)
    budget = world.budget
    if replica.waiting > 0 and replica.running < world.max_num_seqs:
        budget = _admit(world, requests, replica, slots, blocks, cells, segments, log, book)
    if budget < world.budget:
        advance_granted(world, replica, slots, phase)  # nobody decodes
    elif not decode_all(world, replica, slots, phase, 0):
        serve(world, requests, replica, slots, phase, blocks, cells, segments, log, DECODE, budget, 0)
        advance(world, replica, slots, phase, log)
    finish(world, replica, slots)
