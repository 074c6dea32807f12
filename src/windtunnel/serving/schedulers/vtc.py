"""Virtual Token Counter: fair queueing between tenants.

Every tenant has a counter of the service it has received: `fair_input_weight` per prompt token,
charged at admission, and `fair_output_weight` per generated token, charged as it is generated.
Free room goes to the oldest waiting request of the tenant with the smallest counter. A tenant that
had nothing waiting is lifted to the smallest counter among those that had, so that idling earns no
credit (with an empty queue: to the counter of the tenant that left it last). Steps are composed as
Sarathi-Serve's; service that a preemption repeats is not charged again.

Y. Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, algorithm 2. Theorem 4.4:
while two tenants both have requests waiting, their services differ by at most
2 max(w_p L_input, w_q M), with L_input the longest prompt and M the tokens that fit into memory.
"""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.queue import bring_forward
from windtunnel.serving.state import DECODE, PREFILL
from windtunnel.serving.steps import advance, blocks_needed, cached_blocks, finish, serve, start, tokens_left
from windtunnel.serving.swap import begin

# `book`: per tenant its counter, then per tenant whether it had requests waiting when the last step
# was composed, then the tenant that left the queue last.


@njit
def _lift(requests: Any, replica: Any, book: Any) -> None:
    """Note who has requests waiting; lift those who had none."""
    tenants = (len(book) - 1) // 2
    least = math.inf
    for u in range(tenants):
        if book[tenants + u] == 1.0:
            least = min(least, book[u])
    if least == math.inf:
        least = book[int(book[2 * tenants])]
    i = replica.head
    while i >= 0:
        u = requests[i].tenant
        if book[tenants + u] == 0.0:
            book[u] = max(book[u], least)
            book[tenants + u] = 1.0
        i = requests[i].next


@njit
def _charge_running(world: Any, requests: Any, replica: Any, slots: Any, book: Any) -> None:
    """Charge one output token for every request that will have one from this step (before decodes advance)."""
    for k in range(replica.running):
        slot = slots[slots[k].order]
        if slot.chunk > 0 and (slot.state == DECODE or slot.start + slot.chunk == slot.target):
            book[requests[slot.request].tenant] += world.output_weight


@njit
def _rank(requests: Any, replica: Any, book: Any) -> None:
    i = replica.head
    while i >= 0:
        requests[i].key = book[requests[i].tenant]
        i = requests[i].next


@njit
def _leave(requests: Any, replica: Any, book: Any, tenant: int) -> None:
    """One of the tenant's requests left the queue; note if it was the last."""
    tenants = (len(book) - 1) // 2
    i = replica.head
    while i >= 0:
        if requests[i].tenant == tenant:
            return
        i = requests[i].next
    book[tenants + tenant] = 0.0
    book[2 * tenants] = tenant


@njit
def _admit(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, book: Any,
    budget: int,
) -> None:  # fmt: skip
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        _rank(requests, replica, book)
        bring_forward(requests, replica)
        i = replica.head
        if requests[i].stale > 0:
            break
        hits = cached_blocks(world, requests, replica, slots, blocks, cells, segments, i)
        tokens = min(tokens_left(world, requests[i], hits), budget)
        need = blocks_needed(world, requests, replica, blocks, cells, i, hits)
        if replica.running > 0:
            need += world.watermark_blocks
        if need > replica.free_blocks:
            break
        tenant = requests[i].tenant
        if requests[i].preemptions == 0:
            book[tenant] += world.input_weight * requests[i].prompt
        row = start(world, requests, replica, slots, blocks, cells, segments, log, hits, tokens)
        if slots[row].start + tokens == slots[row].target:
            book[tenant] += world.output_weight
        _leave(requests, replica, book, tenant)
        budget -= tokens


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    _lift(requests, replica, book)
    budget = world.budget
    for state in (DECODE, PREFILL):
        budget = serve(world, requests, replica, slots, phase, blocks, cells, segments, log, state, budget, 0)
    _charge_running(world, requests, replica, slots, book)
    advance(world, replica, slots, phase, log)
    if replica.step_preempted == 0:
        _admit(world, requests, replica, slots, blocks, cells, segments, log, book, budget)
    finish(world, replica, slots)
