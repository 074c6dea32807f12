"""BatchLLM: large offline batches whose prompts share prefixes.

Before the run, requests are put into groups that share a prefix, the prefixes chosen to save the
most tokens over the whole batch; groups with the most output per computed prompt token come first,
so that their long decodes later mix with the prompts of others. A group's requests follow each
other, so that its prefix is computed once and need not outlive the group. Steps mix decodes and
prompt chunks; how many requests run is limited by memory alone: one is admitted when the blocks
that all admitted requests will hold at their ends fit together, shared ones counted once.

Z. Zheng et al., "BatchLLM: Optimizing Large Batched LLM Inference with Global Prefix Sharing and
Throughput-oriented Token Batching", arXiv:2412.03594, sections 4 and 5. Output lengths are the
workload's own (`preparation.py` makes the groups; `max_num_seqs` should be set large).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import held_blocks
from windtunnel.serving.footprint import blocks_whole
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.steps import blocks_needed, cached_blocks, finish, serve_running, start, tokens_left
from windtunnel.serving.swap import begin


@njit
def _end_blocks(world: Any, request: Any) -> int:
    return int(blocks_whole(world, request.prompt + request.output - 1))


@njit
def _still_to_come(world: Any, requests: Any, replica: Any, slots: Any) -> int:
    """Blocks that the running requests will take from now on until their ends."""
    total = 0
    for k in range(replica.running):
        slot = slots[slots[k].order]
        total += max(0, _end_blocks(world, requests[slot.request]) - held_blocks(world, replica, slot))
    return total


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    budget = serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    pledged = _still_to_come(world, requests, replica, slots)
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = min(tokens_left(world, requests[i], hits), budget)
        now = blocks_needed(world, requests, replica, blocks, cells, i, hits)
        total = blocks_whole(world, requests[i].prompt + requests[i].generated)
        later = max(0, _end_blocks(world, requests[i]) - total)
        if replica.running > 0 and now + later + pledged > replica.free_blocks:
            break
        row = start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        pledged += max(0, _end_blocks(world, requests[i]) - slots[row].blocks)
        budget -= tokens
    finish(world, replica, slots)
