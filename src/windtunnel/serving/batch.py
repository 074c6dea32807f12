"""Requests of a replica that run: the small steps from which every scheduler is composed.

A running request owns a slot; `slots[i].order` lists the slots in the order in which the
scheduler serves them. A scheduler gives a slot `chunk` tokens with `grant`, makes room with
`preempt`, takes waiting requests in with `admit` and ends with `commit`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.footprint import FROM_TICK, blocks_of
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.kv_cache import cache_full, release, take
from windtunnel.serving.queue import pop_head, push_front
from windtunnel.serving.state import DECODE, NEVER, PREFILL


@inlined
def computed_tokens(replica: Any, slot: Any) -> int:
    """Tokens of the slot's request whose KV is there (or being computed in a step under way)."""
    return int(slot.start + replica.tick if slot.state == DECODE else slot.start)


@inlined
def held_blocks(world: Any, replica: Any, slot: Any) -> int:
    """KV blocks that the slot's request owns."""
    if world.prefix or slot.state == PREFILL:
        return int(slot.blocks)
    computed = slot.start + replica.tick
    return int(blocks_of(world, computed, slot.chunk) if slot.chunk > 0 else blocks_of(world, computed - 1, 1))


@inlined
def blocks_short(world: Any, replica: Any, slot: Any, tokens: int) -> int:
    """Blocks that must be taken before the slot's request can compute `tokens` more."""
    return int(blocks_of(world, computed_tokens(replica, slot), tokens) - held_blocks(world, replica, slot))


@inlined
def take_blocks(world: Any, replica: Any, slots: Any, blocks: Any, cells: Any, row: int, count: int) -> None:
    """Give the slot's request `count` more blocks (there must be as many)."""
    slot = slots[row]
    if world.prefix:
        for _ in range(count):
            cells[row, slot.blocks].block = take(world, replica, blocks)
            slot.blocks += 1
    else:
        replica.free_blocks -= count
        slot.blocks += count
    replica.min_free = min(replica.min_free, replica.free_blocks)


@njit
def grant(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, row: int, tokens: int
) -> None:
    """Schedule `tokens` of the slot's request in this step, taking the blocks they need."""
    slot = slots[row]
    short = blocks_short(world, replica, slot, tokens)
    if short > 0:
        take_blocks(world, replica, slots, blocks, cells, row, short)
    elif short < 0 and not FROM_TICK:  # a window moved on
        replica.free_blocks -= short
        slot.blocks += short
    slot.chunk = tokens
    if world.prefix:
        full = (computed_tokens(replica, slot) + tokens) // world.block_size
        if full > slot.cached_blocks:
            cache_full(
                world, requests, replica, slot, slots, blocks, cells[row], segments, cells[replica.head_row], full
            )


@njit
def _leave_decode(world: Any, replica: Any, slot: Any, phase: Any) -> None:
    computed = slot.start + replica.tick
    replica.decoding -= 1
    replica.context -= computed
    phase[(-slot.start) % world.block_size] -= 1
    if world.window > 0:
        replica.window_context -= min(computed, world.window)
        if computed < world.window:
            replica.unsaturated -= 1


@inlined
def enter_decode(world: Any, replica: Any, slot: Any, phase: Any, remaining: int) -> None:
    """The prompt is done: from now on the request advances one token a step."""
    computed = slot.start
    if not FROM_TICK:
        replica.free_blocks += slot.blocks - blocks_of(world, computed - 1, 1)
    slot.state = DECODE
    slot.start = computed - replica.tick
    slot.finish_tick = replica.tick + remaining
    slot.chunk = 0
    replica.prefilling -= 1
    replica.decoding += 1
    replica.context += computed
    phase[(-slot.start) % world.block_size] += 1
    replica.next_finish = min(replica.next_finish, slot.finish_tick)
    if world.window > 0:
        replica.window_context += min(computed, world.window)
        if computed < world.window:
            replica.unsaturated += 1
            replica.next_saturation = min(replica.next_saturation, world.window - slot.start)


@njit
def vacate(world: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, row: int) -> None:
    """The slot's request leaves: its blocks and the slot become free."""
    slot = slots[row]
    if world.prefix:
        release(world, replica, blocks, cells[row], slot.blocks)
    else:
        replica.free_blocks += held_blocks(world, replica, slot)
    if slot.state == DECODE:
        _leave_decode(world, replica, slot, phase)
    else:
        replica.prefilling -= 1
    slot.chunk = 0
    slots[replica.free_rows].free_row = row
    replica.free_rows += 1


@njit
def preempt(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, index: int
) -> None:
    """Throw the request at this place of the running order out; it will be recomputed."""
    row = slots[index].order
    slot = slots[row]
    request = requests[slot.request]
    if slot.state == DECODE:
        request.generated = request.output - (slot.finish_tick - replica.tick)
    request.stale = slot.flying
    vacate(world, replica, slots, phase, blocks, cells, row)
    for j in range(index, replica.running - 1):
        slots[j].order = slots[j + 1].order
    replica.running -= 1
    request.preemptions += 1
    replica.preemptions += 1
    replica.step_preempted += 1
    push_front(world, requests, replica, slot.request)


@inlined
def take_row(replica: Any, slots: Any) -> int:
    """A free slot."""
    replica.free_rows -= 1
    return int(slots[replica.free_rows].free_row)


@inlined
def open_row(requests: Any, slot: Any, i: int) -> None:
    """Prepare a slot for a request of which nothing is computed."""
    slot.request = i
    slot.state = PREFILL
    slot.start = 0
    slot.target = requests[i].prompt + requests[i].generated
    slot.chunk = 0
    slot.blocks = 0
    slot.keys = 0
    slot.cached_blocks = 0
    slot.segment = requests[i].segment
    slot.segment_used = 0
    slot.flying = 0
    slot.scheduled = 0


@inlined
def admit(world: Any, requests: Any, replica: Any, slots: Any, row: int) -> None:
    """Move the head of the waiting queue into its prepared slot, last in the running order."""
    i = pop_head(world, requests, replica)
    slots[replica.running].order = row
    replica.running += 1
    replica.prefilling += 1
    request = requests[i]
    if request.preemptions == 0:
        request.scheduled_s = world.now_s
        request.cached = slots[row].start
    world.prefix_queries += slots[row].target
    world.prefix_hits += slots[row].start


@njit
def recount(world: Any, replica: Any, slots: Any, phase: Any) -> None:
    """Derive the replica's sums over decoding requests anew."""
    phase[:] = 0
    replica.context = 0
    replica.window_context = 0
    replica.unsaturated = 0
    replica.next_saturation = NEVER
    replica.next_finish = NEVER
    for i in range(replica.running):
        slot = slots[slots[i].order]
        if slot.state != DECODE:
            continue
        computed = slot.start + replica.tick
        replica.context += computed
        phase[(-slot.start) % world.block_size] += 1
        replica.next_finish = min(replica.next_finish, slot.finish_tick)
        if world.window > 0:
            replica.window_context += min(computed, world.window)
            if computed < world.window:
                replica.unsaturated += 1
                replica.next_saturation = min(replica.next_saturation, world.window - slot.start)


@inlined
def count_prefill(world: Any, replica: Any, slot: Any) -> None:
    """Add a prefilling slot's chunk to the step's sums and advance it."""
    chunk, start = slot.chunk, slot.start
    slot.start += chunk
    slot.chunk = 0
    slot.scheduled = 1
    replica.step_tokens += chunk
    replica.step_requests += 1
    replica.step_prefill_tokens += chunk
    replica.step_pairs += chunk * start + chunk * (chunk + 1) // 2
    replica.step_read += start + chunk
    replica.step_computed += start + chunk
    if slot.start == slot.target:
        replica.step_sampled += 1
    if world.window > 0:
        ramp = max(0, min(world.window - start, chunk))  # tokens that still see less than a window
        pairs = ramp * start + ramp * (ramp + 1) // 2 + (chunk - ramp) * world.window
        replica.step_window_pairs += pairs


@inlined
def first_prefill(replica: Any, slots: Any) -> int:
    """The first place in the running order that is in prefill (the end if none is)."""
    left = replica.prefilling
    i = replica.running
    while left > 0:
        i -= 1
        if slots[slots[i].order].state == PREFILL:
            left -= 1
    return int(i)


@inlined
def finish_composing(world: Any, replica: Any, slots: Any) -> None:
    """Complete the step's sums once every slot has its chunk and decodes have advanced."""
    replica.step_tokens += replica.step_decodes
    replica.step_requests += replica.step_decodes
    replica.step_sampled += replica.step_decodes
    replica.step_computed += replica.step_context
    if replica.prefilling > 0:
        for i in range(first_prefill(replica, slots), replica.running):
            slot = slots[slots[i].order]
            if slot.state == PREFILL and slot.chunk > 0:
                count_prefill(world, replica, slot)


@inlined
def clear_step(replica: Any) -> None:
    """Start the sums of a new step."""
    replica.step_tokens = 0
    replica.step_requests = 0
    replica.step_decodes = 0
    replica.step_context = 0
    replica.step_window = 0
    replica.step_sampled = 0
    replica.step_preempted = 0
    replica.step_prefill_tokens = 0
    replica.step_pairs = 0
    replica.step_window_pairs = 0
    replica.step_read = 0
    replica.step_computed = 0


@inlined
def advance_decodes(world: Any, replica: Any) -> None:
    """All decoding requests advance by one token."""
    replica.tick += 1
    replica.context += replica.decoding
    if world.window > 0:
        replica.window_context += replica.unsaturated
    replica.step_decodes = replica.decoding
    replica.step_context = replica.context
    replica.step_window = replica.window_context


@njit
def advance_granted(world: Any, replica: Any, slots: Any, phase: Any) -> None:
    """Those decoding requests advance that were granted a token, one by one.

    With several stages a replica has several batches under way and keeps tick at 0: a granted
    request moves by its own start. Otherwise tick moves and the others are set back.
    """
    single = world.stages == 1
    if single:
        replica.tick += 1
    for i in range(replica.running):
        slot = slots[slots[i].order]
        if slot.state != DECODE:
            continue
        if slot.chunk > 0:
            slot.chunk = 0
            slot.scheduled = 1
            if not single:
                slot.start += 1
            computed = slot.start + replica.tick
            replica.step_decodes += 1
            replica.step_context += computed
            if world.window > 0:
                replica.step_window += min(computed, world.window)
        elif single:
            slot.start -= 1
            slot.finish_tick += 1
    recount(world, replica, slots, phase)
