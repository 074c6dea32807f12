"""When a composed step ends, given what its parts cost (`price.py`).

A scheduler whose steps do other work besides puts a module with the same function in the place
of this one (`kernel.py`).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined
from windtunnel.serving.price import body_seconds, step_joules


@inlined
def time_step(
    world: Any, replica: Any, token_cost: Any, sample_cost: Any, decode_cost: Any, stages: Any, now_s: float
) -> float:
    """When the composed step ends if it starts now; counts its time and energy.

    Stages work on different steps at the same time: a step enters a stage when it has left the
    one before and the stage is free.
    """
    if world.linear:
        seconds = world.base_s + world.per_token_s * replica.step_tokens + world.per_context_s * replica.step_computed
        replica.busy_s += seconds
        return float(now_s + seconds)
    body = body_seconds(world, replica, token_cost, decode_cost)
    head = sample_cost[replica.step_sampled].head_s
    host = world.host_s + world.host_request_s * replica.step_requests
    replica.dynamic_j += step_joules(world, replica, token_cost, sample_cost)
    if world.stages == 1:
        seconds = host + stages[0].share * body + head
        replica.busy_s += seconds
        return float(now_s + seconds)
    end = now_s + host
    hop = token_cost[replica.step_tokens].hop_s
    for s in range(world.stages):
        seconds = stages[s].share * body
        if s > 0:
            seconds += hop
        if s == world.stages - 1:
            seconds += head
            replica.busy_s += seconds
        end = max(stages[s].free_s, end) + seconds
        stages[s].free_s = end
    return float(end)
