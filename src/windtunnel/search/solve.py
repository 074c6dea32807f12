"""Solve one candidate by simulation: the fewest replicas that hold the targets, and the capacity of a deployment."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.memory import MemoryNeed, memory_need
from windtunnel.cost.money import deployment_usd_per_h, usd_per_million_tokens
from windtunnel.cost.surface import StepSurface
from windtunnel.search.binding import binding
from windtunnel.search.bounded import Bounded, tightened
from windtunnel.search.capacity import bracket
from windtunnel.search.evaluate import Prediction, evaluate
from windtunnel.search.question import Question
from windtunnel.search.rank import missed
from windtunnel.search.result import Candidate
from windtunnel.search.screen import refuted
from windtunnel.search.traffic import Traffic
from windtunnel.search.within import hopeless_backlog
from windtunnel.serving.result import Simulation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.workload.table import RequestTable

KEEP = 1.5
"""Candidates whose bound costs more than this many times the best known plan are not simulated."""


class Stopped(Exception):  # noqa: N818 - not an error: the user ended the search
    """The search was interrupted."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What every simulation of a candidate shares: cost surface, memory, and when a queue is hopeless."""

    surface: StepSurface
    memory: MemoryNeed
    max_waiting: int | None


class Solver:
    """Solves candidates of one question; safe to use from several threads."""

    def __init__(self, question: Question, traffic: Traffic) -> None:
        self.question = question
        self.traffic = traffic
        self.simulations = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def fewest(self, one: Bounded, best_usd_per_h: float) -> Candidate:
        """The fewest replicas that hold every target, each try simulated.

        Args:
            one: the candidate with its bounds.
            best_usd_per_h: cost of the best known plan, infinite when none is.
        """
        surface = step_surface(one.unit)
        limited = tightened(one, surface, self.question, self.traffic)
        if isinstance(limited, Candidate):
            return limited
        if limited.least_usd_per_h > KEEP * best_usd_per_h:
            reason = f"costs at least {_dearer(limited.least_usd_per_h, best_usd_per_h)} even when always busy"
            deployment = limited.deployment(limited.fewest)
            return Candidate(deployment, "dominated", reason, limited.least_usd_per_h, limited.memory)
        affordable = limited.most
        if math.isfinite(best_usd_per_h):
            affordable = max(limited.fewest, min(limited.most, int(KEEP * best_usd_per_h / limited.usd_per_h)))
        replica = self._replica(limited.unit, surface, limited.memory)
        tried: dict[int, Prediction] = {}

        def holds(replicas: int) -> bool:
            tried[replicas] = self._try(limited.deployment(replicas), replica, self.traffic.workload)
            return self._holds(tried[replicas])

        replicas = least(holds, limited.fewest, affordable)
        found = self._found(limited.deployment(replicas), limited.memory, tried[replicas])
        found = replace(found, slots_full=any(fills_slots(done.simulation) for done in tried.values()))
        if found.outcome == "misses" and affordable < limited.most:
            reason = found.reason or missed(found, self.question.slo)
            reason += f"; more replicas cost over {KEEP:g} times a known plan"
            return replace(found, outcome="dominated", reason=reason)
        return found

    def _found(self, deployment: DeploymentSpec, memory: MemoryNeed, done: Prediction) -> Candidate:
        """The candidate with what its run showed; without figures when the opening alone decided."""
        found = self._candidate(deployment, memory, done)
        served, asked = len(done.simulation), len(self.traffic.workload)
        if served == asked:
            return found
        nan = float("nan")
        return replace(
            found,
            outcome="misses",
            metrics=None,
            usd_per_million_tokens=nan,
            joules_per_output_token=nan,
            reason=f"breaks the targets on the first {served:,} requests already; {found.binding}",
        )

    def at_most(self, candidate: Candidate) -> Candidate:
        """A candidate that was cut or refuted early, simulated whole with as many replicas as are allowed."""
        question, deployment = self.question, candidate.deployment
        most = question.max_accelerators // deployment.accelerators_per_replica
        widest = deployment.model_copy(update={"plan": deployment.plan.model_copy(update={"replicas": most})})
        memory = candidate.memory or memory_need(deployment, self.traffic.request_tokens)
        replica = self._replica(widest, step_surface(widest), memory)
        done = self._simulate(widest, replica, self.traffic.workload)
        found = self._candidate(widest, memory, done)
        if candidate.outcome == "dominated" and found.outcome == "misses":
            return replace(found, reason=f"{candidate.reason}; {missed(found, question.slo)}")
        return found

    def capacity(self, candidate: Candidate) -> Candidate:
        """The candidate with its capacity, and what binds there."""
        deployment, question, workload = candidate.deployment, self.question, self.traffic.workload
        memory = candidate.memory or memory_need(deployment, self.traffic.request_tokens)
        replica = self._replica(deployment, step_surface(deployment), memory)
        held: list[Prediction] = []

        def holds_at(multiplier: float) -> bool:
            done = self._try(deployment, replica, workload.with_rate(multiplier), multiplier)
            good = self._holds(done)
            if good:
                held.append(done)
            return good

        found = bracket(holds_at, holds_at_start=candidate.outcome == "meets")
        binds = candidate.binding
        if held:
            binds = binding(held[-1].metrics, held[-1].simulation, deployment, question.slo)
        return replace(candidate, capacity_per_s=found.holds * self.traffic.summary.rate_per_s, binding=binds)

    def _holds(self, done: Prediction) -> bool:
        """Whether the whole workload was served within the targets."""
        return len(done.simulation) == len(self.traffic.workload) and done.metrics.meets(self.question.slo)

    def _try(
        self, deployment: DeploymentSpec, replica: Replica, workload: RequestTable, multiplier: float = 1.0
    ) -> Prediction:
        """Simulate a workload; only its opening when that alone refutes the deployment."""
        start = self.traffic.opening
        if start is not None:
            done = self._simulate(deployment, replica, start.with_rate(multiplier))
            if refuted(done.simulation, workload, self.question.slo):
                return done
        return self._simulate(deployment, replica, workload)

    def _replica(self, deployment: DeploymentSpec, surface: StepSurface, memory: MemoryNeed) -> Replica:
        slots = deployment.engine.max_num_seqs
        return Replica(surface, memory, hopeless_backlog(surface, self.traffic.workload, self.question.slo, slots))

    def _simulate(self, deployment: DeploymentSpec, replica: Replica, workload: RequestTable) -> Prediction:
        if self.stopped.is_set():
            raise Stopped
        with self._lock:
            self.simulations += 1
        return evaluate(
            deployment,
            workload,
            self.question.slo,
            router=self.question.router,
            seed=self.question.seed,
            surface=replica.surface,
            memory=replica.memory,
            max_waiting=replica.max_waiting,
        )

    def _candidate(self, deployment: DeploymentSpec, memory: MemoryNeed, done: Prediction) -> Candidate:
        usd = deployment_usd_per_h(deployment, overrides=self.question.prices)
        return Candidate(
            deployment=deployment,
            outcome="meets" if done.metrics.meets(self.question.slo) else "misses",
            usd_per_h=usd,
            memory=memory,
            metrics=done.metrics,
            binding=binding(done.metrics, done.simulation, deployment, self.question.slo),
            usd_per_million_tokens=usd_per_million_tokens(usd, done.metrics.total_tokens_per_s),
            joules_per_output_token=done.metrics.joules_per_output_token,
        )


def least(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number from `low` to `high` that holds, growing by half and then bisecting; `high` when none does.

    `high` is always tried before it is returned. What holds once is taken to hold for every larger number.

    >>> least(lambda n: n >= 5, 1, 16)
    5
    """
    failed, now = low - 1, low
    while not holds(now):
        if now == high:
            return high
        failed, now = now, min(max(now + 1, int(now * 1.5)), high)
    while now - failed > 1:
        middle = (failed + now) // 2
        failed, now = (failed, middle) if holds(middle) else (middle, now)
    return now


def fills_slots(simulation: Simulation) -> bool:
    """Whether a replica ever ran as many requests as it may (preempted ones counted as running)."""
    for replica in range(len(simulation.busy_s)):
        here = (simulation.replica == replica) & np.isfinite(simulation.scheduled_s)
        if int(here.sum()) < simulation.settings.max_num_seqs:
            continue
        starts = np.sort(simulation.scheduled_s[here])
        ends = np.sort(np.nan_to_num(simulation.finish_s[here], nan=np.inf))
        running = np.arange(1, len(starts) + 1) - np.searchsorted(ends, starts, side="right")
        if int(running.max(initial=0)) >= simulation.settings.max_num_seqs:
            return True
    return False


def _dearer(usd_per_h: float, best_usd_per_h: float) -> str:
    return f"${usd_per_h:.2f}/h, over {KEEP:g} times the ${best_usd_per_h:.2f}/h of a known plan,"
