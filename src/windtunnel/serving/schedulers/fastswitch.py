"""FastSwitch: fairness by priorities that change while requests run, and cheap context switches.

Every `update_steps` steps each request draws a new priority, as the paper's offline traces do (its
"random" pattern); the most important ones run and the others are swapped to the host. What makes a
switch cheap are three settings that can be turned off one by one, which gives the paper's
baseline: copies of `swap_group_blocks` neighbouring blocks instead of one (block groups),
`swap_overlap` with the step before (asynchronous swapping), and `swap_reuse` of what the
host still holds (only the increment is copied).

A. Shen et al., "FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware Large
Language Model Serving", arXiv:2411.18424, sections 3 and 4.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, mix, njit
from windtunnel.serving.ranking import serve_by_rank
from windtunnel.serving.swap import begin, forget_finished


@njit
def _priority(world: Any, i: int, epoch: int) -> float:
    """Request i's priority in this epoch, evenly drawn from 0 .. 2^20 - 1."""
    return float(mix(mix(world.seed, i), epoch) & 0xFFFFF)


@njit
def _rank(world: Any, requests: Any, replica: Any, slots: Any) -> None:
    epoch = replica.steps // world.update_steps
    for k in range(replica.running):
        i = slots[slots[k].order].request
        requests[i].key = _priority(world, i, epoch)
    i = replica.head
    while i >= 0:
        requests[i].key = _priority(world, i, epoch)
        i = requests[i].next


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    forget_finished(requests, replica)
    _rank(world, requests, replica, slots)
    serve_by_rank(world, requests, replica, slots, phase, blocks, cells, segments, log)
