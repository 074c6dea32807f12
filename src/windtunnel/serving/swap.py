"""Preemption by swapping: a request's KV goes to host memory over a link and comes back later.

Moving blocks takes `swap_call_s` per copy and `swap_block_s` per block; a copy moves up to
`swap_group` neighbouring blocks. The step that is being composed waits for its transfers
(`stall_s`), unless they overlap with the step before (`swap_overlap`): then only what exceeds
its duration delays. With `swap_reuse` the host keeps its copy after a request came back, and a
second eviction moves only what was added since. Host memory holds `host_blocks`; when it is
full a request is recomputed instead.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import clear_step, computed_tokens, preempt
from windtunnel.serving.footprint import blocks_of
from windtunnel.serving.jit import njit
from windtunnel.serving.log import log_preempted


@njit
def begin(world: Any, replica: Any) -> None:
    """Start composing a step."""
    clear_step(replica)
    replica.stall_s = 0.0
    replica.transfer_s = 0.0


@njit
def settle(world: Any, replica: Any) -> None:
    """Turn the composed step's transfers into the time by which they delay it."""
    if replica.transfer_s > 0.0:
        hidden = world.now_s - replica.begun_s if world.swap_overlap else 0.0
        replica.stall_s = max(0.0, replica.transfer_s - hidden)
        replica.stalled_s += replica.stall_s
    replica.begun_s = world.now_s


@njit
def _transfer(world: Any, replica: Any, moved: int) -> None:
    copies = (moved + world.swap_group - 1) // world.swap_group
    replica.transfer_s += copies * world.swap_call_s + moved * world.swap_block_s


@njit
def _drop_copy(replica: Any, request: Any) -> None:
    replica.host_used -= request.kept
    request.kept = 0


@njit
def evict(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, log: Any, index: int
) -> None:
    """Preempt the request at this place of the running order: to the host if settings and room allow, else for good."""
    slot = slots[slots[index].order]
    request = requests[slot.request]
    computed = computed_tokens(replica, slot)
    count = blocks_of(world, max(computed - 1, 0), min(computed, 1))
    request.swapped = 0
    if world.swaps and computed > 0 and replica.host_used + count - request.kept <= world.host_blocks:
        moved = count - request.kept
        _transfer(world, replica, moved)
        replica.swapped_out += moved
        replica.host_used += moved
        replica.host_peak = max(replica.host_peak, replica.host_used)
        request.kept = count
        request.swapped = computed
    else:
        _drop_copy(replica, request)
    log_preempted(world, log, slot.request)
    preempt(world, requests, replica, slots, phase, blocks, cells, index)


@njit
def restore(world: Any, requests: Any, replica: Any, slot: Any) -> None:
    """A request that was swapped out has a slot again: its tokens come back, all but the last one to compute.

    Must be called before the slot is granted tokens; `grant` then takes the blocks.
    """
    request = requests[slot.request]
    start = min(request.swapped, slot.target - 1)
    if start <= slot.start:
        request.swapped = 0
        return
    count = blocks_of(world, start - 1, 1)
    moved = count - slot.blocks
    _transfer(world, replica, moved)
    replica.swapped_in += moved
    slot.start = start
    request.swapped = 0
    if world.swap_reuse:
        full = start // world.block_size
        replica.host_used -= request.kept - full
        request.kept = full
    else:
        _drop_copy(replica, request)


@njit
def forget_finished(requests: Any, replica: Any) -> None:
    """Free the host's copies of requests that finished since the last step."""
    i = replica.finished
    while i >= 0:
        _drop_copy(replica, requests[i])
        i = requests[i].next
    replica.finished = -1
