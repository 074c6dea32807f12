"""What is cut before any simulation: replicas that cannot run, cannot meet a target, or are too many.

Every bound is optimistic (the speed of light, or the cheapest entries of the deployment's own cost surface), so that
nothing cut could have held the targets; the reason is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.cost.limits import Bounds, bounds
from windtunnel.cost.memory import MemoryNeed, memory_need
from windtunnel.cost.money import deployment_usd_per_h
from windtunnel.cost.surface import StepSurface
from windtunnel.search.demand import allowed_beyond, allowed_unmet, limit_s
from windtunnel.search.question import Question
from windtunnel.search.result import Candidate
from windtunnel.search.space import Unit
from windtunnel.search.traffic import Traffic
from windtunnel.search.within import least_busy_s, least_tpot_s
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec, Target
from windtunnel.units import format_seconds
from windtunnel.workload.table import RequestTable


@dataclass(frozen=True, slots=True)
class Bounded:
    """A replica that can run, with the fewest copies that could possibly meet the targets.

    Attributes:
        unit: the deployment with one replica.
        memory: its memory need.
        fewest, most: replicas that could do at best, and that are allowed.
        usd_per_h: cost of one replica.
        least_tpot_s: its speed of light between two tokens.
    """

    unit: DeploymentSpec
    memory: MemoryNeed
    fewest: int
    most: int
    usd_per_h: float
    least_tpot_s: float

    @property
    def least_usd_per_h(self) -> float:
        """Cost of the fewest replicas."""
        return self.fewest * self.usd_per_h

    def deployment(self, replicas: int) -> DeploymentSpec:
        """The deployment with so many replicas."""
        return with_replicas(self.unit, replicas)


def with_replicas(deployment: DeploymentSpec, replicas: int) -> DeploymentSpec:
    """The same deployment with another number of replicas."""
    return deployment.model_copy(update={"plan": deployment.plan.model_copy(update={"replicas": replicas})})


def bounded(unit: Unit, question: Question, traffic: Traffic) -> Bounded | Candidate:
    """What a replica could do at the speed of light, or why it is out."""
    deployment = unit.deployment
    usd = deployment_usd_per_h(deployment, overrides=question.prices)
    if unit.problem:
        return Candidate(deployment, "infeasible", unit.problem, usd)
    memory = memory_need(deployment, traffic.request_tokens)
    if not memory.fits:
        return Candidate(deployment, "infeasible", memory.reason(), usd, memory)
    most = question.max_accelerators // deployment.accelerators_per_replica
    cached = 1.0 if traffic.workload.shares_prefixes else 0.0
    limit = bounds(deployment, traffic.summary.prompt_mean_tokens, traffic.summary.output_mean_tokens)
    reason = _too_slow(limit, traffic.workload, question.slo)
    fewest = 1
    for demand in traffic.demands:
        means = float(demand.prompt_tokens.mean()), float(demand.output_tokens.mean())
        rate = bounds(deployment, *means, cached_share=cached).request_rate_per_s
        fewest = max(fewest, math.ceil(demand.rate_per_s / rate - 1e-9))
    if not reason and fewest > most:
        reason = f"needs at least {fewest} replicas even at the hardware's limit, {most} are allowed"
    if reason:
        return Candidate(deployment, "dominated", reason, usd, memory)
    return Bounded(deployment, memory, fewest, most, usd, limit.tpot_s)


def tightened(one: Bounded, surface: StepSurface, question: Question, traffic: Traffic) -> Bounded | Candidate:
    """The bounds of the cost model: more replicas at least, or out for good."""
    least_s, reason, fewest = least_tpot_s(surface), "", one.fewest
    for target in question.slo.targets:
        if target.metric == "tpot" and least_s >= limit_s(target) and _matters(target, traffic.workload, question.slo):
            reason = f"TPOT cannot go below {format_seconds(least_s)} even for a single request"
    for demand in traffic.demands:
        busy_s = least_busy_s(surface, demand, cached=traffic.workload.shares_prefixes)
        fewest = max(fewest, math.ceil(busy_s / demand.horizon_s - 1e-9))
    if not reason and fewest > one.most:
        reason = f"needs at least {fewest} replicas even when always busy, {one.most} are allowed"
    if reason:
        return Candidate(one.unit, "dominated", reason, one.usd_per_h, one.memory)
    return replace(one, fewest=fewest)


def _late(target: Target, slo: SloSpec, requests: int) -> int:
    return allowed_unmet(slo, requests) if slo.attainment else allowed_beyond(target, requests)


def _matters(target: Target, workload: RequestTable, slo: SloSpec) -> bool:
    """Whether so many requests have a TPOT that all of them beyond the limit break the target."""
    having = int((workload.output_tokens > 1).sum())
    return having > _late(target, slo, len(workload))


def _too_slow(limit: Bounds, workload: RequestTable, slo: SloSpec) -> str:
    """Which target no schedule meets even with one request at a time; empty when all could be."""
    for target in slo.targets:
        late = _late(target, slo, len(workload))
        if late >= len(workload):
            continue
        if target.metric == "tpot":
            at_least, name = limit.tpot_s, "TPOT"
            if not _matters(target, workload, slo):
                continue
        elif target.metric == "ttft":
            # The longest prompt that must be within the limit, whoever else is not.
            prompt = int(np.sort(workload.prompt_tokens)[len(workload) - 1 - late])
            cached = prompt - 1 if workload.shares_prefixes else 0
            at_least, name = limit.ttft_s(prompt, cached), f"TTFT of a {prompt:,}-token prompt"
        else:
            output = int(np.sort(workload.output_tokens)[len(workload) - 1 - late])
            at_least = limit.ttft_s(1) + (output - 1) * limit.tpot_s
            name = f"end-to-end time of {output:,} output tokens"
        if at_least >= limit_s(target):
            return f"{name} cannot go below {format_seconds(at_least)} even at the hardware's limit"
    return ""
