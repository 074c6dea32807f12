"""Orca: iteration-level scheduling with memory reserved to the end.

After every step finished requests leave and the oldest waiting ones join, whole prompts beside
decodes (selective batching), up to the batch size. A request is admitted only when the memory
for all the tokens it may ever hold is free, so nothing is ever preempted. What "may ever hold"
means is the option `reservation`: the vLLM paper's Orca (Max), Orca (Pow2) and Orca (Oracle).

G.-I. Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models",
OSDI 2022, algorithm 1; W. Kwon et al., SOSP 2023, section 6.1, for the three reservations.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined
from windtunnel.serving.steps import admit_reserving, finish, serve_running
from windtunnel.serving.swap import begin


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    budget = serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    admit_reserving(world, requests, replica, slots, blocks, cells, segments, log, budget)
    finish(world, replica, slots)
