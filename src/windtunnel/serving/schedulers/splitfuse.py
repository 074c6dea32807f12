"""DeepSpeed-FastGen: Dynamic SplitFuse.

Every forward pass has the same size in tokens: decodes first, then prompts, long ones split over
passes, short ones put together to fill the pass exactly. A request whose next token has no block
is passed over and keeps its memory; a prompt is taken only if all that is left of it fits into the
free blocks. When nothing at all can be scheduled, everybody's memory is dropped and recomputed.

C. Holmes et al., "DeepSpeed-FastGen", arXiv:2401.08671, section 3; DeepSpeed-MII,
mii/batching/ragged_batching.py, `schedule_requests`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import blocks_short, grant
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.state import DECODE, PREFILL
from windtunnel.serving.steps import admit_fitting, advance, decode_all, finish, wanted_tokens
from windtunnel.serving.swap import begin, evict


@njit
def _serve_fitting(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, state: int, budget: int
) -> int:
    """Tokens for the running requests in this state that have the blocks. Returns the budget left."""
    for i in range(replica.running):
        row = slots[i].order
        slot = slots[row]
        wanted = wanted_tokens(slot)
        if budget <= 0:
            break
        if slot.state != state or wanted == 0:
            continue
        if blocks_short(world, replica, slot, wanted) > replica.free_blocks:
            if state == PREFILL:
                break
            continue
        tokens = min(wanted, budget)
        grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
        budget -= tokens
    return int(budget)


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    budget = world.budget
    if decode_all(world, replica, slots, phase, 0):
        budget -= replica.decoding
    else:
        for state in (DECODE, PREFILL):
            budget = _serve_fitting(world, requests, replica, slots, blocks, cells, segments, state, budget)
        advance(world, replica, slots, phase, log)
    budget = admit_fitting(world, requests, replica, slots, blocks, cells, segments, log, budget)
    if budget == world.budget and replica.in_flight == 0:
        while replica.running > 0:
            evict(world, requests, replica, slots, phase, blocks, cells, log, replica.running - 1)
    finish(world, replica, slots)
