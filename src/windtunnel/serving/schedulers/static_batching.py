"""Static batching: a batch starts together and ends together.

When nothing runs, the first requests of the queue form a batch, as many as seats, the step's
tokens (all prompts are computed in one step) and memory allow. Until the longest of them ends
every one keeps its place and goes on computing tokens that nobody reads, and all results are
returned together; only then the next batch starts. Memory is set aside for every prompt plus the
batch's longest output. A first token counts when it is computed.

FasterTransformer's way of serving, as described by G.-I. Yu et al., "Orca", OSDI 2022, section 2,
and in the FasterTransformer GPT guide (padding of prompts is removed, as its default does).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.footprint import blocks_whole
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.steps import MAX_MODEL_LEN, POWER_OF_TWO, finish, serve_running, start
from windtunnel.serving.swap import begin


@njit
def _output(world: Any, request: Any) -> int:
    """Output tokens for which the batch has to provide when this request is in it."""
    if world.reserve == MAX_MODEL_LEN:
        return int(world.max_model_len - request.prompt)
    output = request.output
    if world.reserve == POWER_OF_TWO:
        output = 1
        while output < request.output:
            output *= 2
    return int(output)


@njit
def _batch_blocks(world: Any, requests: Any, first: int, count: int, output: int) -> int:
    """Blocks for the first `count` waiting requests with this many output tokens each."""
    total, i = 0, first
    for _ in range(count):
        total += blocks_whole(world, requests[i].prompt + output - 1)
        i = requests[i].next
    return total


@njit
def _batch_size(world: Any, requests: Any, replica: Any) -> int:
    """How many of the waiting requests form the next batch (at least one)."""
    count, tokens, output = 0, 0, 0
    i = replica.head
    while i >= 0 and count < world.max_num_seqs and requests[i].stale == 0:
        tokens += requests[i].prompt
        output = max(output, _output(world, requests[i]))
        need = _batch_blocks(world, requests, replica.head, count + 1, output)
        if count > 0 and (tokens > world.budget or need > replica.free_blocks):
            break
        count += 1
        i = requests[i].next
    return count


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    if replica.running == 0:
        count = _batch_size(world, requests, replica)
        longest, i = 0, replica.head
        for _ in range(count):
            longest = max(longest, requests[i].output)
            i = requests[i].next
        for _ in range(count):
            i = replica.head
            requests[i].output = longest  # what the batch computes; the result keeps what was asked
            start(world, requests, replica, slots, blocks, cells, segments, log, 0, requests[i].prompt)
    else:
        serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    finish(world, replica, slots)
