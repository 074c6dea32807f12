"""vLLM's v1 scheduler with asynchronous scheduling and with speculative tokens (0.32).

With asynchronous scheduling a step is composed while the one before is under way: its tokens
count as placeholders, a request that is certain to end with the step under way gets nothing
more, and arrivals wait for the step after the composed one. With speculative decoding a request
gets its drafted tokens beside the one to be sampled; when they are rejected, its computed tokens
are set back once the step has ended (`ending.py`).

The rules follow vllm/v1/core/sched/scheduler.py and async_scheduler.py of that release. Each
request is counted on its own here (`SLOT.state` stays `PREFILL`), so a step costs time in
proportion to the running requests; the scheduler without either is `vllm.py`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.admission import idle_hits, look_up, seat
from windtunnel.serving.ahead.outcome import accepted_drafts, most_drafts, proposed_drafts
from windtunnel.serving.batch import admit, clear_step, preempt, take_blocks
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.kv_cache import cache_full
from windtunnel.serving.log import log_entry, log_preempted, log_served


@inlined
def _blocks(world: Any, tokens: int) -> int:
    """Blocks that hold this many tokens, drafts and the slots that the drafter wants included."""
    most = min(tokens, world.max_model_len)
    return int((most + world.block_size - 1) // world.block_size)


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
def _give(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, row: int, tokens: int
) -> None:
    """Schedule `tokens` of the slot's request; its full blocks of known tokens become findable."""
    slot = slots[row]
    short = _blocks(world, slot.start + tokens + world.lookahead) - slot.blocks
    if short > 0:
        take_blocks(world, replica, slots, blocks, cells, row, short)
    slot.chunk = tokens
    if world.prefix:
        full = min(slot.start + tokens, slot.target) // world.block_size
        if full > slot.cached_blocks:
            cache_full(
                world, requests, replica, slot, slots, blocks, cells[row], segments, cells[replica.head_row], full
            )


@inlined
def _wanted(world: Any, requests: Any, replica: Any, slot: Any, budget: int) -> int:
    """Tokens that a running request takes in this step."""
    last = requests[slot.request].prompt + requests[slot.request].output
    if slot.placeholders > 0 and slot.start + 2 - slot.placeholders >= last:
        return 0  # the step under way gives its last token, however many drafts it rejects
    tokens = slot.target + slot.drafts + slot.placeholders - slot.start
    if 0 < replica.threshold < tokens:
        tokens = replica.threshold
    return int(min(tokens, budget, world.max_model_len - slot.start - 1))


@njit
def _serve_running(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> tuple[int, int, int, int]:
    """Serve the running requests in their order, preempting where blocks run out.

    Returns the budget of tokens left, that of the drafter's inputs, how many were served, and
    whether one of them was in its prompt.
    """
    budget = inputs = world.budget
    served = in_prompt = i = 0
    while i < replica.running and budget > 0 and inputs > world.draft_slots:
        row = slots[i].order
        slot = slots[row]
        tokens = _wanted(world, requests, replica, slot, min(budget, inputs - world.draft_slots))
        if tokens <= 0:
            i += 1
            continue
        evicted = False
        while _blocks(world, slot.start + tokens + world.lookahead) - slot.blocks > replica.free_blocks:
            victim = _victim(world, requests, replica, slots)
            loser = slots[victim].order
            if slots[loser].chunk > 0:
                budget += slots[loser].chunk
                inputs += slots[loser].chunk + world.draft_slots
                served -= 1
            log_preempted(world, log, slots[loser].request)
            preempt(world, requests, replica, slots, phase, blocks, cells, victim)
            if victim < i:
                i -= 1
            if loser == row:
                evicted = True
                break
        if evicted:
            break
        _give(world, requests, replica, slots, blocks, cells, segments, row, tokens)
        if slot.drafts > 0:
            slot.verified = max(0, min(slot.drafts, tokens + slot.start - slot.target - slot.placeholders))
            slot.drafts = 0
        budget -= tokens
        inputs -= tokens + world.draft_slots
        in_prompt |= slot.in_prompt
        served += 1
        i += 1
    if world.recording:
        log_served(world, log, replica, slots, False)
    return int(budget), int(inputs), int(served), int(in_prompt)


@njit
def _hits(world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, i: int) -> int:
    """Leading blocks of the waiting request that are cached and usable."""
    if not world.prefix:
        return 0
    hits = look_up(world, requests, replica, slots, blocks, cells, segments, i)
    # A drafter that reads the target's hidden states needs the last block computed anew.
    return int(max(hits - world.drop_block, 0))


@njit
def _admit_waiting(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int,
    inputs: int, served: int, in_prompt: int,
) -> None:  # fmt: skip
    """Admit from the head of the queue while budget, places and blocks last."""
    uniform = 1 + world.draft_tokens
    while budget > 0 and inputs > world.draft_slots and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        if requests[i].stale > 0:
            break
        target = requests[i].prompt + requests[i].generated
        hits = _hits(world, requests, replica, slots, blocks, cells, segments, i)
        begin = hits * world.block_size
        room = min(budget, inputs - world.draft_slots)
        tokens = target - begin
        # One token to compute makes a decode: it gets empty drafts, so that all have the same length.
        padded = world.draft_tokens > 0 and not world.by_batch and tokens == 1 and not in_prompt
        padded = padded and (served > 0 or begin > 0) and begin + uniform + 1 <= world.max_model_len
        if padded:
            if uniform > room:
                break
            tokens = uniform
        if 0 < replica.threshold < tokens:
            tokens = replica.threshold
        if not world.chunked and tokens > room:
            break
        tokens = min(tokens, room)
        need = max(_blocks(world, target), _blocks(world, begin + tokens + world.lookahead)) - hits
        if hits > 0:
            need += idle_hits(blocks, cells[replica.head_row], hits)
        if replica.running > 0:
            need += world.watermark_blocks
        if need > replica.free_blocks:
            break
        row = seat(world, requests, replica, slots, blocks, cells, i, hits)
        admit(world, requests, replica, slots, row)
        slot = slots[row]
        slot.placeholders = slot.drafts = slot.primed = slot.in_prompt = 0
        slot.length = world.draft_tokens
        slot.padded = 1 if padded else 0
        slot.verified = world.draft_tokens if padded else 0
        _give(world, requests, replica, slots, blocks, cells, segments, row, tokens)
        if world.recording:
            log_entry(world, log, i, tokens)
        budget -= tokens
        inputs -= tokens + world.draft_slots


@inlined
def _count(world: Any, replica: Any, slot: Any) -> None:
    """Add the slot's tokens to the step's sums (see `price.py`); they stand at the end of `slot.start`."""
    chunk, end = slot.chunk, slot.start
    begin = end - chunk
    replica.step_tokens += chunk
    replica.step_requests += 1
    replica.step_computed += end
    if slot.primed:
        # The KV cache is read once for all of the request's tokens.
        replica.step_decodes += 1
        replica.step_context += end
        if world.window > 0:
            replica.step_window += min(end, world.window)
        return
    replica.step_prefill_tokens += chunk
    replica.step_pairs += chunk * begin + chunk * (chunk + 1) // 2
    replica.step_read += end
    if world.window > 0:
        ramp = max(0, min(world.window - begin, chunk))
        replica.step_window_pairs += ramp * begin + ramp * (ramp + 1) // 2 + (chunk - ramp) * world.window


@njit
def _advance(world: Any, requests: Any, replica: Any, slot: Any, book: Any, most: int) -> int:
    """The slot's tokens are under way: what it will have computed, and whether and what it samples.

    Returns how many tokens are drafted for it.
    """
    slot.start += slot.chunk
    slot.in_prompt = 1 if slot.start < slot.target + slot.placeholders else 0
    _count(world, replica, slot)
    slot.accepted = slot.proposed = 0
    if slot.in_prompt:
        return 0
    i = slot.request
    slot.primed = 1
    replica.step_sampled += 1 + slot.verified
    replica.step_drafters += 1
    replica.step_drafters_context += slot.start
    replica.rounds += 1
    if slot.padded:
        slot.verified, real = 0, slot.verified
        slot.proposed = proposed_drafts(world, book, slot, i, requests[i].samples, most)
        slot.verified = real
    else:
        slot.accepted = accepted_drafts(world, book, i, requests[i].samples, slot.verified)
        slot.proposed = proposed_drafts(world, book, slot, i, requests[i].samples, most)
        replica.draft_rounds += 1 if slot.verified > 0 else 0
        replica.drafted += slot.verified
        replica.accepted += slot.accepted
    requests[i].samples += 1
    slot.padded = 0
    if world.asynchronous:
        slot.placeholders += 1 + slot.verified
        slot.drafts = most
    return int(slot.proposed)


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step; the outcome is in the slots and the step's sums."""
    clear_step(replica)
    replica.step_drafters = replica.step_drafters_context = replica.step_drafts = 0
    replica.threshold = world.threshold if replica.running + replica.waiting > 1 else 0
    budget, inputs, served, in_prompt = _serve_running(
        world, requests, replica, slots, phase, blocks, cells, segments, log
    )
    if replica.step_preempted == 0:
        _admit_waiting(world, requests, replica, slots, blocks, cells, segments, log, budget, inputs, served, in_prompt)
    count = context = 0
    for i in range(replica.running):
        slot = slots[slots[i].order]
        if slot.chunk > 0:
            count += 1
            context += slot.start + slot.chunk
    most, longest = most_drafts(world, book, count, context), 0
    for i in range(replica.running):
        slot = slots[slots[i].order]
        if slot.chunk > 0:
            longest = max(longest, _advance(world, requests, replica, slot, book, most))
    replica.step_drafts = longest if world.recent else most
