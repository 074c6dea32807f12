"""Serve a workload on a deployment, as `simulate` and `explain` need it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from windtunnel.errors import InputError

if TYPE_CHECKING:
    from windtunnel.report.run import Run
    from windtunnel.specs.deployment import DeploymentSpec
    from windtunnel.specs.slo import SloSpec
    from windtunnel.workload.load import LoadedWorkload

SAMPLES = 600
"""Moments at which the cluster's state is kept for the charts."""


def run_deployment(
    deployment: DeploymentSpec,
    loaded: LoadedWorkload,
    slo: SloSpec | None = None,
    prices: Mapping[str, float] | None = None,
    *,
    router: str = "least_outstanding",
    seed: int = 0,
    record_steps: bool = False,
    asked: str = "",
) -> Run:
    """Simulate the workload, clipped to the deployment's context limit.

    `asked` is the model's name as the user gave it, for launch commands.

    Raises:
        InfeasibleError: the deployment does not fit its accelerators; shows the sum.
    """
    from windtunnel.cost.memory import memory_need
    from windtunnel.cost.money import deployment_usd_per_h, usd_per_million_tokens
    from windtunnel.report.run import Run
    from windtunnel.search.evaluate import evaluate
    from windtunnel.specs.slo import SloSpec
    from windtunnel.workload.summary import summarise
    from windtunnel.workload.transform import clip

    slo = slo or SloSpec()
    table, clipped = clip(loaded.table, deployment.max_model_len)
    fitted = _fitted_context(deployment, int((table.prompt_tokens + table.output_tokens).max()))
    memory = memory_need(fitted)
    plan = deployment.plan
    memory.check(f"{deployment.model.name} on {plan.accelerators} x {deployment.accelerator.name} ({plan.label()})")
    done = evaluate(
        fitted,
        table,
        slo,
        router=router,
        seed=seed,
        memory=memory,
        sample_interval_s=max(table.duration_s, 1.0) / SAMPLES,
        record_steps=record_steps,
        give_up=False,
    )
    usd_per_h, notes = math.nan, [*loaded.notes, *clipped.notes()]
    try:
        usd_per_h = deployment_usd_per_h(deployment, overrides=prices)
    except InputError as error:
        notes.append(str(error))
    per_million = usd_per_million_tokens(usd_per_h, done.metrics.total_tokens_per_s)
    return Run(
        deployment=fitted,
        asked=asked,
        slo=slo,
        workload_name=loaded.name,
        workload=summarise(table),
        simulation=done.simulation,
        metrics=done.metrics,
        memory=memory,
        usd_per_h=usd_per_h,
        usd_per_million_tokens=per_million,
        notes=tuple(notes),
    )


def _fitted_context(deployment: DeploymentSpec, longest_tokens: int) -> DeploymentSpec:
    """The deployment with its context limit at what occurs, rounded up, unless the user set one."""
    if deployment.engine.max_model_len:
        return deployment
    limit = min(-(-longest_tokens // 1024) * 1024, deployment.model.max_context_tokens)
    return deployment.model_copy(update={"engine": deployment.engine.model_copy(update={"max_model_len": limit})})
