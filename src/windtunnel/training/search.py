"""The best layouts of a training job: every one in closed form, the best of them with the pipeline played out.

1. Every layout of the space (`training.space`) is checked for memory, and what fits gets its time and energy in
   closed form (`training.screen`), hundreds of thousands a second.
2. What looks best is priced exactly, best first (`training.step`). The closed form and the played pipeline differ by
   how unevenly layers fall on stages; that ratio is learned once per kind of pipeline and corrects the others of its
   kind. The search ends when nothing left could win.
3. The best of every degree and flag is priced too, so that the answer can say why the others lose.
4. When nothing fits, layouts that keep states outside the accelerators are tried; then the smallest cluster is named.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from windtunnel.errors import InfeasibleError, SpecError
from windtunnel.specs.prices import price_usd_per_h
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.training.answer import Budget, Candidate, Counts, Objective, Rejected, TrainingAnswer, budget_of
from windtunnel.training.layouts import ModelSeconds, layouts_of, model_seconds
from windtunnel.training.memory import account
from windtunnel.training.memory_fits import smallest_cluster
from windtunnel.training.offload import check_offload, is_offloaded
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.reasons import flag_problems, rejections, with_reasons, without_layout
from windtunnel.training.screen import Block, Floats, Progress, Screened, screen
from windtunnel.training.step import StepTime, model_key, price

__all__ = [
    "Budget",
    "Candidate",
    "Counts",
    "Objective",
    "Rejected",
    "TrainingAnswer",
    "price_layout",
    "search_layouts",
]

SPREAD = 0.15
"""How far below its closed form a played pipeline comes out at most (`tests/training/test_search.py`)."""
ALIKE = 0.02
"""How far pipelines of one kind differ in that at most, once one of them has been played."""
MOST_PRICED = 400
"""Layouts priced exactly at most, in search of the winner."""
KEPT = 40
"""Layouts kept in the answer beside the best of every degree and flag."""

Found = dict[tuple[int, int], StepTime]
"""Priced layouts by block and place in it."""


class Search:
    """State of one search: what is screened and what is priced."""

    def __init__(self, question: TrainingQuestion, progress: Progress | None) -> None:
        self.question = question
        self.progress = progress
        self.found: Found = {}
        self.refused: dict[tuple[int, int], str] = {}
        self.parts: dict[tuple[str, int, TrainingPlan], ModelSeconds] = {}
        self.cut_short = False
        self.interrupted = False
        self.offload = False
        self.screened = screen(question, progress=progress)
        if not self.screened.blocks and question.features.offload:
            self.offload = True
            before = self.screened
            self.screened = screen(question, offload=True, progress=progress)
            if before.least is not None and self.screened.least is None:
                self.screened.least = before.least

    def run(self) -> None:
        """Price what could win, then the best of every kind."""
        try:
            self._best_first()
            for key in list(self._best_of_kinds()):
                self._price(key)
        except KeyboardInterrupt:
            if not self.found:
                raise
            self.interrupted = True

    def cost(self, key: tuple[int, int], seconds: float, joules: float) -> float:
        """What the objective wants small, per token."""
        job = self.screened.blocks[key[0]].job
        if self.question.objective == "energy":
            return joules / job.tokens
        if self.question.objective == "price":
            return seconds * usd_per_h(job, self.question.prices) * job.gpus / job.tokens
        return seconds / job.tokens

    def costs(self, block: Block) -> Floats:
        """The objective of a block's layouts in closed form."""
        if self.question.objective == "energy":
            return block.joules / block.job.tokens
        if self.question.objective == "price":
            return block.seconds * usd_per_h(block.job, self.question.prices) * block.job.gpus / block.job.tokens
        return block.seconds / block.job.tokens

    def _best_first(self) -> None:
        """Price layouts in the order of what they could cost at best, until no other could win."""
        costs = [self.costs(block) for block in self.screened.blocks]
        if not costs:
            return
        queue = self._shortlist(costs)
        heapq.heapify(queue)
        ratios: dict[tuple[object, ...], float] = {}
        best = math.inf
        while queue and len(self.found) < MOST_PRICED:
            least, cost, key = heapq.heappop(queue)
            if least >= best:
                return
            kind = self._kind(key)
            if kind in ratios and least < cost * ratios[kind] * (1.0 - ALIKE) * (1.0 - 1e-12):
                heapq.heappush(queue, (cost * ratios[kind] * (1.0 - ALIKE), cost, key))
                continue
            step = self._price(key)
            if step is not None:
                exact = self.cost(key, step.seconds, step.joules)
                ratios.setdefault(kind, exact / cost)
                best = min(best, exact)
            if self.progress is not None:
                self.progress(len(self.found), MOST_PRICED, self.screened.blocks[key[0]].layout(key[1]).plan.label())
        self.cut_short = bool(queue) and queue[0][0] < best

    def _shortlist(self, costs: list[Floats]) -> list[tuple[float, float, tuple[int, int]]]:
        """(cost at best, cost in closed form, layout) of those that could beat the best one in closed form."""
        firsts = sorted((float(one.min()), b, int(np.argmin(one))) for b, one in enumerate(costs))
        limit = math.inf
        for _, b, i in firsts[:8]:
            step = self._price((b, i))
            if step is not None:
                limit = min(limit, self.cost((b, i), step.seconds, step.joules) / (1.0 - SPREAD))
        near = ((b, int(i), one) for b, one in enumerate(costs) for i in np.flatnonzero(one <= limit))
        return [(float(one[i]) * (1.0 - SPREAD), float(one[i]), (b, i)) for b, i, one in near]

    def _kind(self, key: tuple[int, int]) -> tuple[object, ...]:
        """What decides how far a played pipeline is from its formula."""
        block, i = self.screened.blocks[key[0]], key[1]
        table, plan = block.table, block.job.plan
        kind = (block.job.gpus, block.job.accelerator.name, plan.schedule, int(table.pp[i]), int(table.virtual[i]))
        if self.offload or is_offloaded(block.job):
            return (*kind, key[0], int(table.tp[i]), int(table.cp[i]), int(table.micro[i]))
        return (*kind, int(table.count[i]))

    def _best_of_kinds(self) -> Iterator[tuple[int, int]]:
        """The best layout, in closed form, with each value of each degree and flag."""
        best: dict[tuple[str, object], tuple[float, tuple[int, int]]] = {}
        for b, block in enumerate(self.screened.blocks):
            costs, plan, table = self.costs(block), block.job.plan, block.table
            place = int(np.argmin(costs))
            flags = {
                "cluster": (block.job.gpus, block.job.accelerator.name),
                "zero": (plan.zero_stage, plan.zero_group),
                "recompute": plan.recompute,
                "schedule": plan.schedule,
                "context": plan.context_method,
                "overlap": plan.tp_overlap,
                "format": plan.compute_dtype,
            }
            rows: list[tuple[str, object, int]] = [(name, value, place) for name, value in flags.items()]
            for name in ("tp", "pp", "cp", "ep"):
                column = getattr(table, name)
                for value in np.unique(column):
                    mine = np.flatnonzero(column == value)
                    rows.append((name, int(value), int(mine[np.argmin(costs[mine])])))
            for name, value, i in rows:
                entry = (float(costs[i]), (b, i))
                best[name, value] = min(best.get((name, value), entry), entry)
        yield from sorted({key for _, key in best.values()})

    def _price(self, key: tuple[int, int]) -> StepTime | None:
        """Price one layout exactly; None, with the reason kept, where its node cannot hold what is offloaded."""
        if key not in self.found and key not in self.refused:
            job = self.screened.blocks[key[0]].layout(key[1])
            try:
                if is_offloaded(job):
                    check_offload(job)
                self.found[key] = price(job, seconds=self._model_seconds(job))
            except (InfeasibleError, SpecError) as error:
                self.refused[key] = str(error)
        return self.found.get(key)

    def _model_seconds(self, job: TrainingJob) -> ModelSeconds:
        """Seconds of the model's parts, which layouts that differ in stages and sharding share."""
        key = (job.accelerator.name, job.gpus, model_key(job.plan))
        if key not in self.parts:
            self.parts[key] = model_seconds(layouts_of(job))
        return self.parts[key]

    def candidates(self) -> list[Candidate]:
        """The best priced layouts and the best of every kind, best first, with their memory."""
        order = sorted(self.found, key=lambda k: (self.cost(k, self.found[k].seconds, self.found[k].joules), k))
        kept = set(order[:KEPT]) | set(self._best_of_kinds())
        found = []
        for key in (k for k in order if k in kept):
            job = self.found[key].job
            memory = account(job)
            if memory.fits:
                found.append(Candidate(job, self.found[key], memory, usd_per_h(job, self.question.prices)))
        return found


def usd_per_h(job: TrainingJob, prices: Mapping[str, float]) -> float:
    """Price of one accelerator, US dollars per hour; nan when none is known."""
    try:
        return price_usd_per_h(job.accelerator.name, overrides=prices).usd_per_h
    except SpecError:
        return math.nan


def search_layouts(question: TrainingQuestion, *, progress: Progress | None = None) -> TrainingAnswer:
    """Find the best layouts.

    Args:
        question: what is asked.
        progress: called with (done, all, what).

    Raises:
        SpecError: no layout of these degrees and this batch is valid.
    """
    started = time.perf_counter()
    if problems := flag_problems(question):
        raise SpecError(problems)
    if question.objective == "price":
        for job in question.clusters:
            price_usd_per_h(job.accelerator.name, overrides=question.prices)  # raises where none is known
    search = Search(question, progress)
    if not search.screened.valid:
        raise SpecError(without_layout(question, search.screened))
    search.run()
    candidates = search.candidates()
    screened = search.screened
    answer = TrainingAnswer(
        asked=question.asked or question.clusters[0].model.name,
        objective=question.objective,
        best=None,
        candidates=tuple(candidates),
        counts=Counts(screened.degrees, screened.valid, screened.fit, len(search.found)),
        notes=_notes(search, bool(candidates)),
        interrupted=search.interrupted,
    )
    answer = with_reasons(answer, question)
    answer = replace(answer, rejected=rejections(answer, question, screened, search.refused))
    if answer.best is None:
        answer = _nothing(answer, question, screened)
    elif question.tokens:
        answer = replace(answer, budget=budget_of(answer.best, question.tokens))
    return replace(answer, elapsed_s=time.perf_counter() - started)


def _nothing(answer: TrainingAnswer, question: TrainingQuestion, screened: Screened) -> TrainingAnswer:
    """The answer when nothing fits: the smallest cluster that would hold the job, and what comes closest here."""
    smallest = smallest_cluster(question.clusters[0])
    nearest = None if screened.least is None else account(screened.least[1])
    return replace(answer, smallest=smallest, nearest=nearest)


def _notes(search: Search, fits: bool) -> tuple[str, ...]:
    """What a reader should know about how the answer came about."""
    found = []
    formats = {search.screened.blocks[key[0]].job.plan.compute_dtype for key in search.found}
    if narrow := sorted(formats - {"bf16", "fp16", "fp32", "tf32"}):
        found.append(
            f"{', '.join(narrow)} arithmetic changes what the model learns as well; only its speed is predicted"
        )
    if search.offload and fits:
        found.append("nothing fits in the accelerators alone, so these layouts keep optimiser states outside them")
    if search.screened.thinned:
        found.append(
            "of virtual stages, one number per chunk size was tried, of microbatches powers of two; "
            "--set virtual_stages=... or micro_batch=... tries others"
        )
    if search.interrupted:
        found.append("the search was interrupted; this is the best found so far")
    if search.cut_short:
        found.append(f"the {MOST_PRICED} most promising layouts were played out; others could come out a little better")
    return tuple(found)


def price_layout(
    job: TrainingJob,
    *,
    asked: str = "",
    prices: Mapping[str, float] | None = None,
    tokens: float | None = None,
    timeline: bool = False,
) -> TrainingAnswer:
    """Price one given layout.

    Args:
        job: a valid job (`specs.training_check.training_job`).
        asked: the model's name as it was asked for.
        prices: the user's own US dollars per accelerator and hour, by accelerator name.
        tokens: a token budget.
        timeline: keep the passes of every pipeline rank.

    Raises:
        InfeasibleError: the node's host memory or drives do not hold what is offloaded.
    """
    started = time.perf_counter()
    if is_offloaded(job):
        check_offload(job)
    found = Candidate(job, price(job, timeline=timeline), account(job), usd_per_h(job, prices or {}))
    fits = found.memory.fits
    return TrainingAnswer(
        asked=asked or job.model.name,
        objective="time",
        best=replace(found, why="the layout that was given" if fits else found.memory.reason()),
        candidates=(found,) if fits else (),
        frontier=(0,) if fits else (),
        counts=Counts(1, 1, int(fits), 1),
        budget=budget_of(found, tokens) if tokens else None,
        elapsed_s=time.perf_counter() - started,
        given=True,
    )
