"""The search: from every replica that could run to the cheapest deployment that holds the targets.

1. Replicas that cannot run are set aside with the reason (divisibility, memory).
2. For the rest, bounds say whether they could hold the targets at all and with how many replicas at least
   (`search.bounded`). What costs more than `solve.KEEP` times a known plan even so is cut: it could not have been
   cheaper.
3. The fewest replicas that hold every target are found by bisection, each try a simulation of the whole workload
   on the whole deployment, router included (`search.solve`).
4. Candidates that ran out of request slots are tried again with more of them.
5. What holds is ranked by dollars per hour, and the capacity of each is bracketed on the rate. When nothing holds, the
   closest get theirs: the share of the traffic that they could carry.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from windtunnel.cost.device import device_of
from windtunnel.cost.limits import bounds
from windtunnel.metrics.summary import Metrics
from windtunnel.search.bounded import Bounded, bounded
from windtunnel.search.evaluate import evaluate, evaluate_ends
from windtunnel.search.pareto import pareto_front
from windtunnel.search.question import Question
from windtunnel.search.rank import closest_of, ranked, with_reasons
from windtunnel.search.result import Candidate, PlanResult
from windtunnel.search.solve import Solver, Stopped
from windtunnel.search.space import Unit, expands, units, with_slots
from windtunnel.search.traffic import traffic_of
from windtunnel.serving.result import Simulation
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.speculation import notes_on

WAVE = 8
"""Candidates simulated side by side before the best known cost is updated, so that no answer depends on timing."""
WITH_CAPACITY = 8
"""Of so many of the best candidates the capacity is bracketed, at least (all that tie for the pick always)."""
CLOSEST = 4
"""When nothing meets the targets: of so many of the closest the capacity is bracketed."""
TIE = 1e-6
"""Costs this close, relative, are equal."""
SAMPLES = 400
"""Points of the chosen candidate's time series."""

Progress = Callable[[int, int, str], None]
"""Called with (done, all, what is being looked at)."""
Item = TypeVar("Item", Bounded, Candidate)


class Search:
    """State of one search: what is known so far. `run` answers the question."""

    def __init__(self, question: Question, progress: Progress | None = None, workers: int = 2) -> None:
        self.question = question
        self.progress = progress
        self.workers = workers
        self.traffic = traffic_of(question)
        self.solver = Solver(question, self.traffic)
        self.best_usd_per_h = math.inf

    def run(self) -> list[Candidate]:
        """Every candidate with its outcome."""
        found = self._solved(list(units(self.question)))
        found += [replace(c, more_slots=True) for c in self._solved(self._with_more_slots(found))]
        if not any(c.outcome == "meets" for c in found):
            found = self._with_nearest(found)
        return without_idle_slots(self._with_capacities(found))

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped the search."""
        return self.solver.stopped.is_set()

    def _solved(self, wanted: Sequence[Unit]) -> list[Candidate]:
        out: list[Candidate] = []
        able: list[Bounded] = []
        for unit in wanted:
            one = bounded(unit, self.question, self.traffic)
            if isinstance(one, Candidate):
                out.append(one)
            else:
                able.append(one)
        able.sort(key=lambda b: (b.least_usd_per_h, b.unit.accelerators_per_replica))
        return out + self._in_waves(self._fewest, able)

    def _fewest(self, one: Bounded) -> Candidate:
        return self.solver.fewest(one, self.best_usd_per_h)

    def _with_more_slots(self, found: Sequence[Candidate]) -> list[Unit]:
        """Larger `max_num_seqs` for those that ran into it; for the others it would change nothing."""
        full = [candidate.deployment for candidate in found if candidate.slots_full]
        return [unit for slots in self.question.sequence_limits for unit in with_slots(full, slots)]

    def _with_nearest(self, candidates: list[Candidate]) -> list[Candidate]:
        """When nothing holds, simulate whole what was refuted early, to say what comes closest.

        When bounds alone ruled out everything, that is the quickest candidate.
        """
        if self.interrupted:
            return candidates
        again = [c for c in candidates if c.outcome == "misses" and c.metrics is None]
        if not any(c.outcome == "misses" for c in candidates):
            able = [c for c in candidates if c.outcome == "dominated" and c.memory is not None]
            again = sorted(able, key=lambda c: bounds(c.deployment, 1.0, 2.0).tpot_s)[:1]
        after = self._in_waves(self._at_most, again)
        known = {id(candidate): found for candidate, found in zip(again, after, strict=True)}
        return [known.get(id(c), c) for c in candidates]

    def _at_most(self, candidate: Candidate) -> Candidate:
        return self.solver.at_most(candidate)

    def _with_capacities(self, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates, the best of them with their capacity."""
        if self.traffic.summary.rate_per_s <= 0 or self.interrupted:
            return candidates
        meeting = ranked([c for c in candidates if c.outcome == "meets"])
        if meeting:
            # Capacity decides between candidates of equal cost, so every one that ties for the pick needs it.
            ties = sum(c.usd_per_h <= meeting[0].usd_per_h * (1.0 + TIE) for c in meeting)
            best = meeting[: max(ties, WITH_CAPACITY)]
        else:
            missing = [c for c in candidates if c.outcome == "misses" and c.metrics is not None]
            best = sorted(missing, key=lambda c: c.tightness(self.question.slo))[:CLOSEST]
        after = self._in_waves(self._capacity, best)
        known = {id(candidate): found for candidate, found in zip(best, after, strict=True)}
        return [known.get(id(c), c) for c in candidates]

    def _capacity(self, candidate: Candidate) -> Candidate:
        return self.solver.capacity(candidate)

    def _in_waves(self, work: Callable[[Item], Candidate], todo: Sequence[Item]) -> list[Candidate]:
        """Run work on items in threads (the simulator holds no lock); on Ctrl-C keep what is done."""
        results: list[Candidate | None] = [None] * len(todo)
        done = [0]

        def one(index: int) -> None:
            try:
                results[index] = work(todo[index])
            except Stopped:
                return
            done[0] += 1
            if self.progress is not None:
                self.progress(done[0], len(todo), _label(todo[index]))

        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(todo), WAVE):
                if self.interrupted:
                    break
                self._wait([pool.submit(one, i) for i in range(start, min(start + WAVE, len(todo)))])
                for found in results[start : start + WAVE]:
                    if found is not None and found.outcome == "meets":
                        self.best_usd_per_h = min(self.best_usd_per_h, found.usd_per_h)
        return [result or _skipped(item) for result, item in zip(results, todo, strict=True)]

    def _wait(self, futures: list[Future[None]]) -> None:
        """Wait for a wave; what the user interrupted ends after the simulations under way."""
        try:
            for future in futures:
                future.result()
        except BaseException as reason:
            self.solver.stopped.set()
            for future in futures:
                future.cancel()
            if not isinstance(reason, KeyboardInterrupt):
                raise


def without_idle_slots(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, those set aside that gain nothing from more request slots than their like has."""

    def like(c: Candidate) -> tuple[object, ...]:
        engine = c.deployment.engine.model_copy(update={"max_num_seqs": 0})  # as text: its tables do not hash
        return c.deployment.accelerator.name, c.deployment.plan, engine.model_dump_json()

    plain = {like(c): c for c in candidates if c.outcome == "meets" and not c.more_slots}
    out = []
    for candidate in candidates:
        fewer = plain.get(like(candidate)) if candidate.more_slots and candidate.outcome == "meets" else None
        if fewer is not None and not candidate.capacity_per_s > fewer.capacity_per_s:
            slots = fewer.deployment.engine.max_num_seqs
            reason = f"carries no more than with at most {slots} requests at once per replica"
            candidate = replace(candidate, outcome="dominated", reason=reason)
        out.append(candidate)
    return out


def _label(item: Bounded | Candidate) -> str:
    deployment = item.unit if isinstance(item, Bounded) else item.deployment
    return f"{deployment.accelerator.name} {deployment.plan.label()}"


def _skipped(item: Bounded | Candidate) -> Candidate:
    if isinstance(item, Candidate):
        return item
    return Candidate(item.unit, "skipped", "the search was interrupted before it", item.usd_per_h, item.memory)


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
        progress: called as the search goes on, from the threads that simulate.
        workers: threads that simulate side by side.

    Returns:
        Every candidate; after Ctrl-C the best so far, with `interrupted` set.
    """
    started = time.perf_counter()
    search = Search(question, progress, workers)
    candidates = with_reasons(ranked(search.run()), question.slo, search.traffic.summary.rate_per_s)
    pick = next((c for c in candidates if c.outcome == "meets"), None)
    closest = None if pick is not None else closest_of(candidates, question.slo)
    chosen = pick or closest
    return PlanResult(
        model=question.model.name,
        accelerators=tuple(a.name for a in question.accelerators),
        slo=question.slo,
        workload=search.traffic.summary,
        workload_name=workload_name,
        candidates=candidates,
        pick=pick,
        closest=closest,
        pareto=_front(candidates, question),
        simulation=None if chosen is None else _simulation(chosen, question),
        elapsed_s=time.perf_counter() - started,
        simulations=search.solver.simulations + 3 * (chosen is not None),
        interrupted=search.interrupted,
        notes=(*notes, *_notes(chosen)),
        ends=None if chosen is None else _ends(chosen, question),
    )


def _ends(chosen: Candidate, question: Question) -> tuple[Metrics, Metrics]:
    """The chosen candidate with all costs at the low, and at the high end of their 80 % intervals."""
    return evaluate_ends(
        chosen.deployment,
        question.workload,
        question.slo,
        router=question.router,
        seed=question.seed,
        memory=chosen.memory,
    )


def _simulation(chosen: Candidate, question: Question) -> Simulation:
    """The chosen candidate's run once more, to its end and with a time series."""
    assert chosen.metrics is not None, "what is chosen was simulated"
    span_s = max(question.workload.duration_s, chosen.metrics.duration_s, 1e-3)
    return evaluate(
        chosen.deployment,
        question.workload,
        question.slo,
        router=question.router,
        seed=question.seed,
        memory=chosen.memory,
        sample_interval_s=span_s / SAMPLES,
    ).simulation


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
    if expands(deployment.accelerator, weights):
        found.append(
            f"{deployment.accelerator.name} stores the {weights} weights and multiplies in "
            f"{deployment.plan.matmul_dtype} (weight-only kernels)"
        )
    device = device_of(deployment.accelerator)
    if device.provenance != "calibrated":
        found.append(
            f"no kernels of {deployment.accelerator.name} were measured: its costs use the constants of "
            f"{device.inherited_from} with its datasheet's rates"
        )
    engine = deployment.engine
    return (*found, *notes_on(engine.speculative, engine.max_num_seqs, engine.max_num_batched_tokens))


def _front(candidates: tuple[Candidate, ...], question: Question) -> tuple[int, ...]:
    """Candidates that meet the targets and that none beats in dollars, nearness to the targets and energy."""
    rows = [
        (c.usd_per_h, c.tightness(question.slo) if question.slo.targets else c.metrics.latency_s["e2e"]["p99"],
         c.joules_per_output_token)
        if c.outcome == "meets" and c.metrics is not None
        else (np.nan, np.nan, np.nan)
        for c in candidates
    ]  # fmt: skip
    return tuple(int(i) for i in pareto_front(np.array(rows, dtype=np.float64).reshape(-1, 3)))
