"""Shortest remaining processing time: whoever needs the fewest steps to end runs, preempting the rest.

Remaining work is counted in steps: one for every token still to come, by the workload's own output
lengths, and one for every full budget of prompt tokens still to be computed. It is the bound that
schedulers working with predictions try to reach. A running request gives way (recomputed, or
swapped to the host with `preemption = swap`) only when a waiting one with less work left needs its
seat or blocks; what has to be computed again counts as work.

L. Schrage, "A proof of the optimality of the shortest remaining processing time discipline",
Operations Research 1968; R. Shahout et al., "Don't Stop Me Now: Embedding Based Scheduling for
LLMs" (TRAIL), ICLR 2025, for its use between the steps of a model.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.ranking import serve_by_rank
from windtunnel.serving.state import DECODE
from windtunnel.serving.steps import update_generated
from windtunnel.serving.swap import begin, forget_finished


@njit
def _rank(world: Any, requests: Any, replica: Any, slots: Any) -> None:
    i = replica.head
    while i >= 0:
        request = requests[i]
        todo = request.prompt + request.generated - request.swapped
        request.key = todo / world.budget + request.output - request.generated
        i = request.next
    for k in range(replica.running):
        slot = slots[slots[k].order]
        update_generated(replica, requests, slot)
        request = requests[slot.request]
        todo = 1 if slot.state == DECODE else slot.target - slot.start
        request.key = todo / world.budget + request.output - request.generated


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
