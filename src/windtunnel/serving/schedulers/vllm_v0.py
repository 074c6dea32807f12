"""vLLM before its v1 engine: prompts first, one kind of work per step.

If prompts wait and nothing is swapped out, the step consists of as many whole prompts as the
budget, the seats and the blocks (less a watermark) allow. Otherwise every running request decodes
one token; each needs a free block at hand, and the request that came last is preempted when there
is none: recomputed, or swapped to the host and brought back, ahead of new prompts, as soon as
nothing has to be preempted.

W. Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023, section 4.5; vllm/core/scheduler.py (0.6), `_schedule_default`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import advance_granted
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.state import DECODE
from windtunnel.serving.steps import (
    admit_fitting,
    advance,
    blocks_needed,
    cached_blocks,
    decode_all,
    finish,
    serve,
    start,
    tokens_left,
)
from windtunnel.serving.swap import begin, forget_finished


@njit
def _bring_back(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, budget: int
) -> None:
    """Swapped requests return and decode in this step."""
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        if requests[i].swapped == 0 or requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        need = blocks_needed(world, requests, replica, blocks, cells, i, hits)
        if replica.running > 0:
            need += world.watermark_blocks
        if need > replica.free_blocks:
            break
        tokens = min(tokens_left(world, requests[i], hits), budget)
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        budget -= tokens


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    forget_finished(requests, replica)
    budget = world.budget
    if replica.waiting > 0 and requests[replica.head].swapped == 0:
        budget = admit_fitting(world, requests, replica, slots, blocks, cells, segments, log, budget)
    if budget < world.budget:
        advance_granted(world, replica, slots, phase)  # nobody decodes
    else:
        if decode_all(world, replica, slots, phase, 1):
            budget -= replica.decoding
        else:
            budget = serve(world, requests, replica, slots, phase, blocks, cells, segments, log, DECODE, budget, 1)
            advance(world, replica, slots, phase, log)
        if replica.step_preempted == 0:
            _bring_back(world, requests, replica, slots, blocks, cells, segments, log, budget)
    finish(world, replica, slots)
