"""FastServe: preemption at every token by a skip-join multi-level feedback queue.

Queue k grants a quantum of `quantum_s` * 2^k seconds of service. A request joins the highest queue
whose quantum covers its prefill time (known from its prompt: it skips the others), is demoted one
queue when its quantum is used up, and is promoted to the first when it has waited
`starvation_s`. Each step runs the most important requests; who gives way is swapped to the host,
with the transfer overlapping the step before (proactive swapping), so that it delays a step only by
what exceeds it.

B. Wu et al., "FastServe: Iteration-Level Preemptive Scheduling for Large Language Model
Inference", NSDI 2026 (arXiv:2305.05920), sections 4.1 and 4.2.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.ranking import serve_by_rank
from windtunnel.serving.swap import begin, forget_finished

# `book`: per request the service used of its quantum (s), then per request when it began to wait.


@njit
def _quantum(world: Any, level: int) -> float:
    return float(world.quantum_s * 2.0**level)


@njit
def _rank(world: Any, requests: Any, replica: Any, slots: Any, book: Any) -> None:
    n = len(requests)
    for k in range(replica.running):
        i = slots[slots[k].order].request
        if world.now_s > replica.begun_s:
            book[i] += world.now_s - replica.begun_s
        while book[i] >= _quantum(world, requests[i].level) and requests[i].level + 1 < world.levels:
            book[i] -= _quantum(world, requests[i].level)
            requests[i].level += 1
        book[n + i] = world.now_s
        requests[i].key = requests[i].level
    i = replica.head
    while i >= 0:
        since_s = max(book[n + i], requests[i].arrival_s)
        if world.now_s - since_s >= world.starve_s and requests[i].level > 0:
            requests[i].level = 0
            book[i] = 0.0
            book[n + i] = world.now_s
        requests[i].key = requests[i].level
        i = requests[i].next


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    forget_finished(requests, replica)
    _rank(world, requests, replica, slots, book)
    serve_by_rank(world, requests, replica, slots, phase, blocks, cells, segments, log)
