"""When a step ends that computes tokens of LoRA adapters (see `cost.surface.AdapterSurface`).

Stands in the place of `serving/timing.py`, for one pipeline stage.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined
from windtunnel.serving.price import body_seconds, step_joules


@inlined
def time_step(
    world: Any, replica: Any, token_cost: Any, sample_cost: Any, decode_cost: Any, stages: Any, now_s: float
) -> float:
    """When the composed step ends if it starts now; counts its time and energy."""
    if world.linear:
        seconds = world.base_s + world.per_token_s * replica.step_tokens + world.per_context_s * replica.step_computed
        replica.busy_s += seconds
        return float(now_s + seconds)
    seconds = world.host_s + world.host_request_s * replica.step_requests
    seconds += body_seconds(world, replica, token_cost, decode_cost) + sample_cost[replica.step_sampled].head_s
    replica.dynamic_j += step_joules(world, replica, token_cost, sample_cost)
    if replica.step_adapters > 0:
        adapted = token_cost[world.adapter_row + replica.step_adapted]
        seconds += adapted.body_s + (replica.step_adapters - 1) * world.adapter_further_s
        replica.dynamic_j += adapted.body_j + (replica.step_adapters - 1) * world.adapter_further_j
    replica.busy_s += seconds
    return float(now_s + seconds)
