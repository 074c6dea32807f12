"""TensorRT-LLM's two capacity policies under in-flight batching.

Every step takes the generating requests first, then context (whole, or in chunks if chunked
context is on) within the token budget. `tensorrt-llm-no-evict` (GUARANTEED_NO_EVICT, the
default) admits a request only if the blocks that all admitted requests may need until their last
token fit together: nothing is ever evicted. `tensorrt-llm-max-utilization` admits whenever the
blocks for the next step fit, without looking ahead; when blocks run out, the request started last
is paused and later recomputed.

TensorRT-LLM documentation, "Scheduler" and CapacitySchedulerPolicy (executor API);
cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined
from windtunnel.serving.steps import admit_fitting, admit_reserving, finish, serve_running
from windtunnel.serving.swap import begin

NO_EVICT, MAX_UTILIZATION = 0, 1
"""`WORLD.variant`."""


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    budget = serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    if world.variant == NO_EVICT:
        admit_reserving(world, requests, replica, slots, blocks, cells, segments, log, budget)
    elif replica.step_preempted == 0:
        admit_fitting(world, requests, replica, slots, blocks, cells, segments, log, budget)
    finish(world, replica, slots)
