"""Preemptive service by rank: the most important requests run, whoever waits or runs now.

Used by the schedulers that preempt at every step (FastServe, FastSwitch, SRPT). They write each
request's `key` (smaller is more important) before calling `serve_by_rank`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.footprint import blocks_whole
from windtunnel.serving.jit import njit
from windtunnel.serving.queue import before, bring_forward
from windtunnel.serving.steps import (
    blocks_needed,
    cached_blocks,
    finish,
    serve_running,
    start,
    tokens_left,
    worst_running,
)
from windtunnel.serving.swap import evict


@njit
def make_room(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> None:
    """Preempt less important running requests as far as that seats more important waiting ones.

    Looks at the waiting requests in order of rank and counts the seats, blocks and tokens that they
    will take; stops when the step is full or no preemption of a less important one can seat the next.
    """
    seats = world.max_num_seqs - replica.running
    free = replica.free_blocks
    budget = world.budget - replica.running
    i = _best_waiting(requests, replica, -1)
    while i >= 0 and budget > 0:
        total = requests[i].prompt + requests[i].generated
        need = blocks_whole(world, total)
        while (seats < 1 or free < need) and replica.running > 0:
            worst = worst_running(requests, replica, slots)
            request = slots[slots[worst].order].request
            if not requests[i].key < requests[request].key:
                break
            held = replica.free_blocks
            evict(world, requests, replica, slots, phase, blocks, cells, log, worst)
            free += replica.free_blocks - held
            seats += 1
        if seats < 1 or free < need:
            break
        seats -= 1
        free -= need
        budget -= tokens_left(world, requests[i], 0)
        i = _best_waiting(requests, replica, i)


@njit
def _best_waiting(requests: Any, replica: Any, after: int) -> int:
    """The most important waiting request behind `after` in rank (-1: of all), or -1."""
    best = -1
    i = replica.head
    while i >= 0:
        if (after < 0 or before(requests, after, i)) and (best < 0 or before(requests, i, best)):
            best = i
        i = requests[i].next
    return best


@njit
def serve_by_rank(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> None:
    """Compose a step by rank: make room, serve the running, admit the most important waiting ones."""
    if replica.waiting > 0:
        make_room(world, requests, replica, slots, phase, blocks, cells, segments, log)
    budget = serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        bring_forward(requests, replica)
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = tokens_left(world, requests[i], hits)
        if not world.chunked and tokens > budget:
            break
        tokens = min(tokens, budget)
        if blocks_needed(world, requests, replica, blocks, cells, i, hits) > replica.free_blocks:
            break
        start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        budget -= tokens
    finish(world, replica, slots)
