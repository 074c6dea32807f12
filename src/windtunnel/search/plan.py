"""The search: from every replica that could run to the cheapest deployment that holds the targets.

1. Replicas that cannot run are set aside with the reason (divisibility, memory).
2. For the rest a speed-of-light bound gives the fewest replicas that could possibly carry the traffic. What cannot
   meet a latency target at all, or costs more than `KEEP` times a known plan even so, is cut: the bound is
   optimistic, so nothing cut could have been cheaper.
3. The fewest replicas that hold every target are found by bisection, each try a simulation of the whole workload
   on the whole deployment, router included.
4. What holds is ranked by dollars per hour; for the best of them capacity is bracketed on the rate.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.device import device_of
from windtunnel.cost.limits import bounds
from windtunnel.cost.memory import MemoryNeed, memory_need
from windtunnel.cost.money import deployment_usd_per_h, usd_per_million_tokens
from windtunnel.cost.surface import StepSurface
from windtunnel.search.binding import binding
from windtunnel.search.capacity import bracket
from windtunnel.search.evaluate import Outcome, evaluate, request_tokens
from windtunnel.search.pareto import pareto_front
from windtunnel.search.question import Question
from windtunnel.search.rank import closest_of, missed, ranked, with_reasons
from windtunnel.search.result import Candidate, PlanResult
from windtunnel.search.screen import opening, refuted
from windtunnel.search.space import Unit, units
from windtunnel.search.within import model_bounds
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.workload.summary import WorkloadSummary, summarise
from windtunnel.workload.table import RequestTable

KEEP = 1.5
"""Candidates whose bound costs more than this many times the best known plan are not simulated."""
DRAIN_S = 60.0
"""Backlog beyond the targets that may be left to work off when the last request has arrived, seconds."""
WAVE = 8
"""Candidates simulated side by side before the best known cost is updated, so that no answer depends on timing."""
WITH_CAPACITY = 4
"""How many of the best candidates get their capacity bracketed, at least."""
TIE = 1e-6
"""Costs this close, relative, are equal."""
SAMPLES = 400
"""Points of the winner's time series."""

Progress = Callable[[int, int, str], None]
"""Called with (done, all, what is being looked at)."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """A replica that can run, with the cheapest way in which it could possibly meet the targets."""

    unit: DeploymentSpec
    memory: MemoryNeed
    fewest: int
    most: int
    usd_per_h: float

    @property
    def least_usd_per_h(self) -> float:
        """Cost of the fewest replicas."""
        return self.fewest * self.usd_per_h


class Search:
    """State of one search: what is known so far. `run` answers the question."""

    def __init__(self, question: Question, progress: Progress | None = None, workers: int = 2) -> None:
        self.question = question
        self.progress = progress
        self.workers = workers
        self.summary: WorkloadSummary = summarise(question.workload)
        self.opening = opening(question.workload)
        self.request_tokens = request_tokens(question.workload)
        self.best_usd_per_h = math.inf
        self.simulations = 0
        self.done = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> tuple[list[Candidate], bool]:
        """Every candidate with its outcome, and whether the search was interrupted."""
        out: list[Candidate] = []
        bounded: list[Bounded] = []
        for unit in units(self.question):
            candidate = self._bound(unit)
            if isinstance(candidate, Candidate):
                out.append(candidate)
            else:
                bounded.append(candidate)
        bounded.sort(key=lambda b: (b.least_usd_per_h, b.unit.plan.accelerators_per_replica))
        simulated, interrupted = self._in_threads(self._solve, bounded)
        out += simulated
        if not interrupted:
            out, interrupted = self._capacities(out)
        if not any(c.outcome in ("meets", "misses") for c in out):
            out = self._with_nearest(out)
        return out, interrupted

    def _with_nearest(self, candidates: list[Candidate]) -> list[Candidate]:
        """When bounds alone ruled out everything, simulate the quickest candidate to say how far off it is."""
        able = [(i, c) for i, c in enumerate(candidates) if c.outcome == "dominated" and c.memory is not None]
        if not able:
            return candidates
        lengths = self.summary.prompt_mean_tokens, self.summary.output_mean_tokens
        place, quickest = min(able, key=lambda item: bounds(item[1].deployment, *lengths, cached_share=1.0).tpot_s)
        unit, memory = quickest.deployment, quickest.memory
        assert memory is not None
        most = self.question.max_accelerators // unit.plan.accelerators_per_replica
        bounded = Bounded(unit, memory, most, most, quickest.usd_per_h / unit.plan.replicas)
        outcome = self._simulate(_with_replicas(unit, most), step_surface(unit), memory)
        found = self._candidate(_with_replicas(unit, most), bounded, outcome)
        return [*candidates[:place], found, *candidates[place + 1 :]]

    def _bound(self, unit: Unit) -> Bounded | Candidate:
        """What a replica could do at best, or why it is out."""
        question, deployment = self.question, unit.deployment
        usd = deployment_usd_per_h(deployment, overrides=question.prices)
        if unit.problem:
            return Candidate(deployment, "infeasible", unit.problem, usd)
        memory = memory_need(deployment, self.request_tokens)
        if not memory.fits:
            return Candidate(deployment, "infeasible", memory.reason(), usd, memory)
        limit = bounds(deployment, self.summary.prompt_mean_tokens, self.summary.output_mean_tokens, cached_share=1.0)
        for target in question.slo.targets:
            if target.metric == "tpot" and limit.tpot_s >= target.limit_s:
                reason = f"TPOT cannot go below {limit.tpot_s * 1e3:.1f} ms even at the hardware's limit"
                return Candidate(deployment, "dominated", reason, usd, memory)
        most = question.max_accelerators // deployment.plan.accelerators_per_replica
        fewest = max(1, math.ceil(self.summary.rate_per_s / limit.request_rate_per_s - 1e-9))
        if fewest > most:
            reason = f"needs at least {fewest} replicas even at the hardware's limit, {most} are allowed"
            return Candidate(deployment, "dominated", reason, usd, memory)
        return Bounded(deployment, memory, fewest, most, usd)

    def _solve(self, bounded: Bounded) -> Candidate:
        """The fewest replicas that hold every target, each try a whole simulation."""
        surface = step_surface(bounded.unit)
        tightened = self._tightened(bounded, surface)
        if isinstance(tightened, Candidate):
            return tightened
        bounded = tightened
        if bounded.least_usd_per_h > KEEP * self.best_usd_per_h:
            reason = (
                f"costs at least ${bounded.least_usd_per_h:.2f}/h even when always busy, "
                f"more than {KEEP:g} times a known plan"
            )
            fewest = _with_replicas(bounded.unit, bounded.fewest)
            return Candidate(fewest, "dominated", reason, bounded.least_usd_per_h, bounded.memory)
        tried: dict[int, Outcome] = {}

        def holds(replicas: int) -> bool:
            if replicas not in tried:
                deployment = _with_replicas(bounded.unit, replicas)
                last = replicas == bounded.most
                if not last and self._refuted(deployment, surface, bounded.memory):
                    return False
                tried[replicas] = self._simulate(deployment, surface, bounded.memory)
            return tried[replicas].metrics.meets(self.question.slo)

        affordable = math.floor(KEEP * self.best_usd_per_h / bounded.usd_per_h) if self.best_usd_per_h < math.inf else 0
        capped = 0 < affordable < bounded.most
        if capped:
            bounded = replace(bounded, most=max(affordable, bounded.fewest))
        replicas = self._fewest(holds, bounded)
        candidate = self._candidate(_with_replicas(bounded.unit, replicas), bounded, tried[replicas])
        if candidate.outcome == "misses" and capped:
            reason = (
                f"{missed(candidate, self.question.slo)}; more replicas would cost over {KEEP:g} times a known plan"
            )
            return replace(candidate, outcome="dominated", reason=reason)
        return candidate

    def _tightened(self, bounded: Bounded, surface: StepSurface) -> Bounded | Candidate:
        """The bounds of the cost model: more replicas at least, or out for good."""
        limit = model_bounds(surface, self.question.workload)
        for target in self.question.slo.targets:
            if target.metric == "tpot" and limit.tpot_s >= target.limit_s and not self.question.slo.attainment:
                break
        else:
            longest_s = max((target.limit_s for target in self.question.slo.targets), default=0.0)
            span_s = self.summary.duration_s + DRAIN_S + longest_s
            fewest = max(bounded.fewest, math.ceil(limit.busy_s / span_s - 1e-9) if self.summary.rate_per_s > 0 else 1)
            if fewest <= bounded.most:
                return replace(bounded, fewest=fewest)
            reason = f"needs at least {fewest} replicas even when always busy, {bounded.most} are allowed"
            return Candidate(bounded.unit, "dominated", reason, bounded.usd_per_h, bounded.memory)
        reason = f"TPOT cannot go below {limit.tpot_s * 1e3:.1f} ms even for a single request"
        return Candidate(bounded.unit, "dominated", reason, bounded.usd_per_h, bounded.memory)

    def _fewest(self, holds: Callable[[int], bool], bounded: Bounded) -> int:
        """Grow from the bound until the targets hold, then bisect; the most allowed when they never do."""
        low, high = bounded.fewest - 1, bounded.fewest
        while not holds(high):
            if high == bounded.most or self.stopped.is_set():
                return high
            low, high = high, min(max(high + 1, int(high * 1.5)), bounded.most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high

    def _refuted(self, deployment: DeploymentSpec, surface: StepSurface, memory: MemoryNeed) -> bool:
        """Whether the opening of the workload alone already breaks a target."""
        if self.opening is None:
            return False
        outcome = self._simulate(deployment, surface, memory, self.opening)
        return refuted(outcome.simulation, self.question.workload, self.question.slo)

    def _simulate(
        self,
        deployment: DeploymentSpec,
        surface: StepSurface,
        memory: MemoryNeed,
        workload: RequestTable | None = None,
    ) -> Outcome:
        with self._lock:
            self.simulations += 1
        question = self.question
        return evaluate(
            deployment,
            question.workload if workload is None else workload,
            question.slo,
            router=question.router,
            seed=question.seed,
            surface=surface,
            memory=memory,
        )

    def _candidate(self, deployment: DeploymentSpec, bounded: Bounded, outcome: Outcome) -> Candidate:
        metrics = outcome.metrics
        usd = deployment_usd_per_h(deployment, overrides=self.question.prices)
        return Candidate(
            deployment=deployment,
            outcome="meets" if metrics.meets(self.question.slo) else "misses",
            usd_per_h=usd,
            memory=bounded.memory,
            metrics=metrics,
            binding=binding(metrics, outcome.simulation, deployment, self.question.slo),
            usd_per_million_tokens=usd_per_million_tokens(usd, metrics.total_tokens_per_s),
            joules_per_output_token=metrics.joules_per_output_token,
        )

    def _capacities(self, candidates: list[Candidate]) -> tuple[list[Candidate], bool]:
        """The candidates, the best of them with their capacity."""
        meeting = ranked([c for c in candidates if c.outcome == "meets"])
        if self.summary.rate_per_s <= 0 or not meeting:
            return candidates, False
        # Capacity decides between candidates of equal cost, so every one that ties for the pick needs it.
        ties = sum(c.usd_per_h <= meeting[0].usd_per_h * (1.0 + TIE) for c in meeting)
        best = meeting[: max(ties, WITH_CAPACITY)]
        self.done = 0
        found, interrupted = self._in_threads(self._with_capacity, best)
        known = {id(before): after for before, after in zip(best, found, strict=True)}
        return [known.get(id(c), c) for c in candidates], interrupted

    def _with_capacity(self, candidate: Candidate) -> Candidate:
        surface = step_surface(candidate.deployment)
        memory = candidate.memory or memory_need(candidate.deployment, self.request_tokens)
        question = self.question

        def holds_at(multiplier: float) -> bool:
            faster = question.workload.with_rate(multiplier)
            if self.opening is not None:
                start = self._simulate(candidate.deployment, surface, memory, self.opening.with_rate(multiplier))
                if refuted(start.simulation, faster, question.slo):
                    return False
            return self._simulate(candidate.deployment, surface, memory, faster).metrics.meets(question.slo)

        found = bracket(holds_at, holds_at_start=True)
        return replace(candidate, capacity_per_s=found.holds * self.summary.rate_per_s)

    def _in_threads(self, work: Callable[..., Candidate], items: Iterable[object]) -> tuple[list[Candidate], bool]:
        """Run work on items in threads (the simulator holds no lock); on Ctrl-C keep what is done."""
        todo = list(items)
        results: list[Candidate | None] = [None] * len(todo)

        def one(index: int) -> None:
            item = todo[index]
            if not self.stopped.is_set():
                results[index] = work(item)
            with self._lock:
                self.done += 1
                if self.progress is not None:
                    self.progress(self.done, len(todo), _label(item))

        interrupted = False
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(todo), WAVE):
                futures = [pool.submit(one, index) for index in range(start, min(start + WAVE, len(todo)))]
                interrupted = self._wait(futures)
                if interrupted:
                    break
                known = [c.usd_per_h for c in results[start : start + WAVE] if c is not None and c.outcome == "meets"]
                self.best_usd_per_h = min([self.best_usd_per_h, *known])
        skipped = [result or _skipped(item) for result, item in zip(results, todo, strict=True)]
        return skipped, interrupted

    def _wait(self, futures: list[Future[None]]) -> bool:
        """Wait for a wave; True when the user interrupted it."""
        try:
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            self.stopped.set()
            for future in futures:
                future.cancel()
            return True
        except BaseException:
            self.stopped.set()
            raise
        return False


def _label(item: object) -> str:
    deployment = item.unit if isinstance(item, Bounded) else item.deployment if isinstance(item, Candidate) else None
    return f"{deployment.accelerator.name} {deployment.plan.label()}" if deployment is not None else ""


def _skipped(item: object) -> Candidate:
    if isinstance(item, Candidate):
        return item
    assert isinstance(item, Bounded)
    return Candidate(item.unit, "skipped", "the search was interrupted before it", item.usd_per_h, item.memory)


def _with_replicas(deployment: DeploymentSpec, replicas: int) -> DeploymentSpec:
    return deployment.model_copy(update={"plan": deployment.plan.model_copy(update={"replicas": replicas})})


def search_plans(
    question: Question,
    *,
    workload_name: str = "workload",
    notes: tuple[str, ...] = (),
    progress: Progress | None = None,
    workers: int = 2,
) -> PlanResult:
    """Answer a question.

    Args:
        question: model, workload, targets, hardware.
        workload_name: what to call the workload.
        notes: what the reader should know already (clipped requests and the like).
        progress: called as the search goes on.
        workers: threads that simulate side by side.
    """
    started = time.perf_counter()
    search = Search(question, progress, workers)
    found, interrupted = search.run()
    candidates = with_reasons(ranked(found), question.slo, search.summary.rate_per_s)
    pick = next((c for c in candidates if c.outcome == "meets"), None)
    closest = None if pick is not None else closest_of(candidates, question.slo)
    chosen = pick or closest
    simulation = None
    if chosen is not None and chosen.metrics is not None:
        interval = max(search.summary.duration_s, chosen.metrics.duration_s, 1e-3) / SAMPLES
        simulation = evaluate(
            chosen.deployment,
            question.workload,
            question.slo,
            router=question.router,
            seed=question.seed,
            sample_interval_s=interval,
        ).simulation
    return PlanResult(
        model=question.model.name,
        accelerators=tuple(a.name for a in question.accelerators),
        slo=question.slo,
        workload=search.summary,
        workload_name=workload_name,
        candidates=candidates,
        pick=pick,
        closest=closest,
        pareto=_front(candidates, question),
        simulation=simulation,
        elapsed_s=time.perf_counter() - started,
        simulations=search.simulations + 1,
        interrupted=interrupted,
        notes=(*notes, *_notes(chosen)),
    )


def _notes(chosen: Candidate | None) -> tuple[str, ...]:
    """What a reader should know about the answer: fewer bits than published, costs from a datasheet alone."""
    if chosen is None:
        return ()
    deployment, found = chosen.deployment, []
    weights, native = deployment.plan.weight_dtype, deployment.model.dtype
    if DTYPE_BYTES[weights] < DTYPE_BYTES[native]:
        found.append(
            f"{weights} weights change what the model says as well as its speed; only the speed is predicted "
            f"(--precisions {native} keeps the published format)"
        )
    device = device_of(deployment.accelerator)
    if device.provenance != "calibrated":
        found.append(
            f"no kernels of {deployment.accelerator.name} were measured: its costs use the constants of "
            f"{device.inherited_from} with its datasheet's rates"
        )
    return tuple(found)


def _front(candidates: tuple[Candidate, ...], question: Question) -> tuple[int, ...]:
    """Candidates that meet the targets and that none beats in dollars, nearness to the targets and energy."""
    rows = [
        (c.usd_per_h, c.metrics.tightness(question.slo) if question.slo.targets else c.metrics.latency_s["e2e"]["p99"],
         c.joules_per_output_token)
        if c.outcome == "meets" and c.metrics is not None
        else (np.nan, np.nan, np.nan)
        for c in candidates
    ]  # fmt: skip
    return tuple(int(i) for i in pareto_front(np.array(rows, dtype=np.float64).reshape(-1, 3)))
