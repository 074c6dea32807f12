"""Serve a workload on one deployment: from specs to a run with its memory, metrics and money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from windtunnel.cost.memory import MemoryNeed, memory_need
from windtunnel.cost.money import deployment_usd_per_h, usd_per_million_tokens
from windtunnel.errors import InputError
from windtunnel.metrics.summary import Metrics
from windtunnel.search.evaluate import evaluate, evaluate_ends, request_tokens
from windtunnel.search.question import CONTEXT_STEP
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import Policy
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.specs.speculation import notes_on
from windtunnel.workload.summary import WorkloadSummary, summarise
from windtunnel.workload.table import RequestTable
from windtunnel.workload.transform import clip


@dataclass(frozen=True, slots=True)
class Run:
    """A simulated run.

    Attributes:
        deployment: what ran, replicas included.
        asked: the model's name as the user gave it.
        slo: the targets, possibly none.
        workload_name, workload: what was served.
        simulation, metrics: what happened.
        ends: the metrics with all costs at the low and at the high end of their 80 % intervals; None when not asked.
        memory: memory need of the worst rank.
        usd_per_h: price of all accelerators; nan when unknown.
        usd_per_million_tokens: at this traffic, prompt and output tokens; nan when unknown.
        notes: what a reader should know.
    """

    deployment: DeploymentSpec
    asked: str
    slo: SloSpec
    workload_name: str
    workload: WorkloadSummary
    simulation: Simulation
    metrics: Metrics
    memory: MemoryNeed
    usd_per_h: float
    usd_per_million_tokens: float
    notes: tuple[str, ...]
    ends: tuple[Metrics, Metrics] | None = None

    @property
    def label(self) -> str:
        """`2 x h100-sxm: TP2 x1 bf16`."""
        plan = self.deployment.plan
        return f"{self.deployment.accelerators} x {self.deployment.accelerator.name}: {plan.label()}"


def serve(
    deployment: DeploymentSpec,
    workload: RequestTable,
    slo: SloSpec | None = None,
    *,
    workload_name: str = "workload",
    notes: Sequence[str] = (),
    prices: Mapping[str, float] | None = None,
    router: str = "least_outstanding",
    seed: int = 0,
    record_steps: bool = False,
    sample_interval_s: float | None = None,
    asked: str = "",
    intervals: bool = False,
    policy: Policy | None = None,
) -> Run:
    """Simulate a workload, clipped to the deployment's context limit, to its end.

    Args:
        deployment: what runs; a context limit that is not set becomes the longest request, rounded up.
        workload: the requests.
        slo: targets for attainment and goodput.
        workload_name: what to call the workload.
        notes: what a reader should know already.
        prices: the user's own prices by accelerator, US dollars per accelerator and hour.
        router: routing policy between replicas.
        seed: of everything random.
        record_steps: keep one row per step.
        sample_interval_s: keep the cluster's state at this interval, seconds.
        asked: the model's name as the user gave it, for launch commands.
        policy: functions of the user's own in place of the engine's scheduler (and the router).
        intervals: simulate the ends of the costs' 80 % intervals as well.

    Raises:
        InfeasibleError: the deployment does not fit its accelerators; shows the sum.
    """
    slo = slo or SloSpec()
    table, clipped = clip(workload, deployment.max_model_len)
    fitted = fitted_context(deployment, table)
    memory = memory_need(fitted, request_tokens(table))
    plan = deployment.plan
    memory.check(
        f"{deployment.model.name} on {deployment.accelerators} x {deployment.accelerator.name} ({plan.label()})"
    )
    done = evaluate(
        fitted,
        table,
        slo,
        router=router,
        seed=seed,
        memory=memory,
        sample_interval_s=sample_interval_s,
        record_steps=record_steps,
        policy=policy,
    )
    engine = deployment.engine
    drafts = notes_on(engine.speculative, engine.max_num_seqs, engine.max_num_batched_tokens)
    usd_per_h, said = math.nan, [*notes, *clipped.notes(), *drafts]
    try:
        usd_per_h = deployment_usd_per_h(deployment, overrides=prices)
    except InputError as error:
        said.append(str(error))
    return Run(
        deployment=fitted,
        asked=asked,
        slo=slo,
        workload_name=workload_name,
        workload=summarise(table),
        simulation=done.simulation,
        metrics=done.metrics,
        memory=memory,
        usd_per_h=usd_per_h,
        usd_per_million_tokens=usd_per_million_tokens(usd_per_h, done.metrics.total_tokens_per_s),
        notes=tuple(said),
        ends=evaluate_ends(fitted, table, slo, router=router, seed=seed, memory=memory, policy=policy)
        if intervals
        else None,
    )


def fitted_context(deployment: DeploymentSpec, workload: RequestTable) -> DeploymentSpec:
    """The deployment with its context limit at what occurs, rounded up, unless the user set one."""
    if deployment.engine.max_model_len:
        return deployment
    longest = int((workload.prompt_tokens + workload.output_tokens).max(initial=1))
    limit = min(-(-longest // CONTEXT_STEP) * CONTEXT_STEP, deployment.model.max_context_tokens)
    return deployment.model_copy(update={"engine": deployment.engine.model_copy(update={"max_model_len": limit})})
