"""What LoRA adapters add to a step, as tables: products per token, weights per adapter, a copy per load.

The same operators as `explain` shows, priced by the same functions. What they cost together is taken to be a sum:
where tokens are few the weights decide, where they are many the arithmetic does.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from windtunnel.cost.energy import capped
from windtunnel.cost.rank_tables import Rank, rounded, tables_of
from windtunnel.cost.steps import launches_of
from windtunnel.cost.surface import AdapterSurface, StepSurface
from windtunnel.operators.lora import adapter_operators, adapter_values, further_adapters
from windtunnel.operators.operator import ACTIVATION_BYTES
from windtunnel.specs.deployment import DeploymentSpec


def with_adapters(surface: StepSurface, rank: Rank, deployment: DeploymentSpec) -> StepSurface:
    """The surface with its adapters' costs, where the deployment has any."""
    engine = deployment.hosted_engine
    if engine.lora is None:
        return surface
    model, plan, spec = rank.model, rank.plan, engine.lora
    size = rounded(surface.max_tokens)
    token_s, token_j = tables_of(rank, adapter_operators(model, plan, spec, np.arange(size + 1.0)), size)
    if not engine.graphs:
        launches = launches_of(adapter_operators(model, plan, spec, 1.0), engine.kernels.fused)
        token_s = np.where(np.arange(len(token_s)) > 0, np.maximum(token_s, launches * engine.launch_s), 0.0)
    further = [further_adapters(model, plan, spec, 1.0)]
    further_s = float(rank.seconds(further))
    joules = float(plan.ranks_per_stage * capped(rank.joules(further), np.asarray(further_s), rank.energy))
    each_bytes = adapter_values(model, plan, spec) * ACTIVATION_BYTES
    return replace(
        surface,
        adapters=AdapterSurface(
            token_s=token_s[: surface.max_tokens + 1],
            token_j=token_j[: surface.max_tokens + 1],
            further_s=further_s,
            further_j=joules,
            load_s=each_bytes / deployment.accelerator.host_link_bytes_per_s,
        ),
    )
