"""One run of a workload on a deployment, with what a report of it needs."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.cost.memory import MemoryNeed
from windtunnel.metrics.summary import Metrics
from windtunnel.serving.result import Simulation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.summary import WorkloadSummary


@dataclass(frozen=True, slots=True)
class Run:
    """A simulated run.

    Attributes:
        deployment: what ran, replicas included.
        asked: the model's name as the user gave it.
        slo: the targets, possibly none.
        workload_name, workload: what was served.
        simulation, metrics: what happened.
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

    @property
    def label(self) -> str:
        """`2 x h100-sxm: TP2 x1 bf16`."""
        plan = self.deployment.plan
        return f"{plan.accelerators} x {self.deployment.accelerator.name}: {plan.label()}"
