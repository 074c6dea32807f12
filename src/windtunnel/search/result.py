"""What a search answers: the candidates, ranked, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from windtunnel.cost.memory import MemoryNeed
from windtunnel.metrics.summary import Metrics
from windtunnel.serving.run import Simulation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.summary import WorkloadSummary

Outcome = Literal["meets", "misses", "infeasible", "dominated", "skipped"]
"""meets: holds every target at the asked traffic. misses: simulated, does not. infeasible: cannot
run at all. dominated: a provably optimistic bound already loses to a known plan. skipped: not
looked at, because the search was interrupted."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One deployment and what the search found about it.

    Attributes:
        deployment: the resolved deployment, replicas included.
        outcome: see `Outcome`.
        reason: one sentence: why it is infeasible, dominated, misses, or ranks where it does.
        usd_per_h: price of all its accelerators, US dollars per hour.
        memory: memory need per rank, when it was computed.
        metrics: what it does at the asked traffic, when simulated.
        capacity_per_s: most requests per second (whole deployment, same mix) that hold the targets; 0 when
            none do, nan when it was not looked for.
        binding: which target gives way first, at capacity where that is known, and where its slowest
            requests spend their time (`TPOT p99: memory bandwidth (58% of the time, ...)`).
        usd_per_million_tokens: dollars per million tokens, prompt and output, at the asked traffic.
        joules_per_output_token: energy of all its accelerators per output token.
        slots_full: whether a replica ever ran max_num_seqs requests at once.
        more_slots: whether max_num_seqs is larger than the engine's own.
    """

    deployment: DeploymentSpec
    outcome: Outcome
    reason: str = ""
    usd_per_h: float = float("nan")
    memory: MemoryNeed | None = None
    metrics: Metrics | None = None
    capacity_per_s: float = float("nan")
    binding: str = ""
    usd_per_million_tokens: float = float("nan")
    joules_per_output_token: float = float("nan")
    slots_full: bool = False
    more_slots: bool = False

    def tightness(self, slo: SloSpec) -> float:
        """How near the nearest target is, above 1 when missed; infinite when it was not simulated."""
        return self.metrics.tightness(slo) if self.metrics is not None else float("inf")

    @property
    def label(self) -> str:
        """`2 x h100-sxm: TP2 x1 bf16, 2048-token steps`."""
        plan, engine = self.deployment.plan, self.deployment.engine
        name = f"{self.deployment.accelerators} x {self.deployment.accelerator.name}: {plan.label()}"
        slots = f" of up to {engine.max_num_seqs} requests" if self.more_slots else ""
        return f"{name}, {engine.max_num_batched_tokens}-token steps{slots}"


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The answer of `plan`.

    Attributes:
        model, accelerators, slo, workload: the question.
        candidates: every candidate; those that meet the targets first, by cost.
        pick: the cheapest that meets them, or None when nothing does.
        closest: when nothing meets them, the candidate that comes closest.
        pareto: indices into candidates of the front over dollars, latency and energy.
        simulation: the pick's (or closest's) simulation at the asked traffic.
        elapsed_s, simulations: how long the search took and how many simulations it ran.
        interrupted: whether the user stopped it; the answer is then the best so far.
        ends: the chosen candidate's metrics with all costs at the low and high end of their 80 % intervals.
        notes: what a reader should know (clipped requests, assumed prices, uncalibrated hardware).
    """

    model: str
    accelerators: tuple[str, ...]
    slo: SloSpec
    workload: WorkloadSummary
    workload_name: str
    candidates: tuple[Candidate, ...]
    pick: Candidate | None
    closest: Candidate | None
    pareto: tuple[int, ...]
    simulation: Simulation | None
    elapsed_s: float
    simulations: int
    interrupted: bool = False
    notes: tuple[str, ...] = field(default=())
    ends: tuple[Metrics, Metrics] | None = None
