"""vLLM's v1 scheduler with LoRA adapters (0.32, asynchronous scheduling off).

Running requests are served as without adapters. A waiting request whose adapter would be one more than
`max_loras` in this step is skipped, and those behind it are looked at; the skipped ones return to the head
of the queue in their order. Adapters that are not on the device are copied there before the step.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.adapters.residency import admits, open_step, use
from windtunnel.serving.batch import clear_step, finish_composing
from windtunnel.serving.jit import inlined
from windtunnel.serving.queue import pop_head, push_front
from windtunnel.serving.vllm import admit_head, advance_served, grant_in_order


@inlined
def _admit_waiting(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, book: Any,
    budget: int,
) -> None:  # fmt: skip
    """Admit from the queue, in its order, what budget, places, blocks and adapters allow."""
    skipped = -1
    while budget > 0 and replica.waiting > 0 and replica.running < world.max_num_seqs:
        i = replica.head
        adapter = int(requests[i].adapter)
        if not admits(world, replica, book, adapter):
            pop_head(world, requests, replica)
            requests[i].next = skipped
            skipped = i
            continue
        tokens = admit_head(world, requests, replica, slots, blocks, cells, segments, log, budget)
        if tokens == 0:
            break
        use(world, replica, book, adapter, tokens)
        budget -= tokens
    while skipped >= 0:
        i = skipped
        skipped = requests[i].next
        push_front(world, requests, replica, i)


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step; the outcome is in the slots and the step's sums."""
    clear_step(replica)
    open_step(world, replica, book)
    replica.threshold = world.threshold if replica.running + replica.waiting > 1 else 0
    budget = grant_in_order(world, requests, replica, slots, phase, blocks, cells, segments, log)
    for place in range(replica.running):
        slot = slots[slots[place].order]
        if slot.chunk > 0:
            use(world, replica, book, int(requests[slot.request].adapter), int(slot.chunk))
    advance_served(world, replica, slots, phase, log)
    if replica.waiting > 0 and replica.step_preempted == 0:
        _admit_waiting(world, requests, replica, slots, blocks, cells, segments, log, book, budget)
    replica.adapter_steps += replica.step_adapters
    finish_composing(world, replica, slots)
