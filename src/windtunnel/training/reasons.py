"""Why layouts stand where they do: what a slower one loses on, and what the others could not meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import numpy as np
from pydantic import ValidationError

from windtunnel.errors import Problem
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import job_problems
from windtunnel.training.answer import Candidate, Objective, Rejected, TrainingAnswer
from windtunnel.training.closed_form import step_costs
from windtunnel.training.memory import account
from windtunnel.training.memory_fits import peak_bytes
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.screen import Screened
from windtunnel.training.space import runnable

WORDS = {
    "forward": "forward compute",
    "backward": "backward compute",
    "recompute": "recomputation",
    "tensor": "tensor-parallel communication",
    "context": "context-parallel communication",
    "expert": "expert all-to-all",
    "data": "gradients and sharded weights",
    "pipeline": "pipeline messages",
    "bubble": "pipeline bubble",
    "optimizer": "optimiser",
    "offload": "offloading",
    "host": "host",
}
"""The parts of a step as a person calls them."""
_WORSE = {"time": "slower", "price": "dearer", "energy": "more energy"}
_BEST = {"time": "shortest step", "price": "fewest dollars per token", "energy": "least energy per token"}


def with_reasons(answer: TrainingAnswer, question: TrainingQuestion) -> TrainingAnswer:
    """The answer with its best, the front and a sentence per candidate."""
    if not answer.candidates:
        return answer
    first = answer.candidates[0]
    fit = answer.counts.fit
    why = f"{_BEST[question.objective]} of {fit:,} layouts that fit" if fit > 1 else "the only layout that fits"
    best = replace(first, why=why)
    others = (replace(c, why=why_behind(c, first, question.objective)) for c in answer.candidates[1:])
    found = (best, *others)
    return replace(answer, best=best, candidates=found, frontier=front(found))


def why_behind(candidate: Candidate, best: Candidate, objective: Objective) -> str:
    """What a candidate loses to the best on, largest first."""
    behind = candidate.cost(objective) / best.cost(objective) - 1.0
    said = f"{behind:.1%} {_WORSE[objective]}" if behind >= 0.0005 else "as good"
    step, other = candidate.step.seconds / candidate.job.tokens, best.step.seconds / best.job.tokens
    if behind < 0.0005 or (objective != "time" and step <= other):
        return said
    lost = {name: candidate.step.parts[name] - best.step.parts[name] for name in WORDS}
    total = sum(value for value in lost.values() if value > 0)
    named = sorted((name for name in lost if lost[name] > 0.15 * total), key=lambda name: -lost[name])[:3]
    parts = ", ".join(f"{WORDS[name]} +{lost[name] / best.step.seconds:.1%}" for name in named)
    most = min(lost, key=lambda name: lost[name])
    if -lost[most] > 0.25 * total:
        parts += f", though {WORDS[most]} {lost[most] / best.step.seconds:.1%}"
    return f"{said}: {parts}" if named else said


def front(candidates: tuple[Candidate, ...]) -> tuple[int, ...]:
    """Candidates that no other beats in seconds, dollars and joules per token and memory at once."""
    rows = np.array(
        [
            (c.cost("time"), c.usd_per_million_tokens, c.joules_per_token, c.memory.total_bytes / c.memory.device_bytes)
            for c in candidates
        ]
    )
    rows = np.nan_to_num(rows)
    found = []
    for i, row in enumerate(rows):
        beaten = (rows <= row).all(axis=1) & (rows < row).any(axis=1)
        if not beaten.any():
            found.append(i)
    return tuple(found)


def rejections(
    answer: TrainingAnswer, question: TrainingQuestion, screened: Screened, refused: Mapping[tuple[int, int], str]
) -> tuple[Rejected, ...]:
    """The layouts that are not listed, by reason."""
    found = [Rejected(reason, count) for reason, count in screened.invalid.items() if count]
    misfits = screened.valid - screened.fit
    if misfits:
        example = ""
        if answer.best is not None:
            example = quicker_misfit(answer.best, screened, question)
        elif screened.least is not None:
            example = f"{screened.least[1].plan.label()} {account(screened.least[1]).reason()}"
        found.append(Rejected("do not fit in memory", misfits, example))
    slower = screened.fit - len(answer.candidates) - len(refused)
    if slower > 0:
        found.append(Rejected("fit and lose to those that are listed", slower))
    for reason, count in Counter(refused.values()).most_common():
        found.append(Rejected("refused", count, reason))
    return tuple(found)


def quicker_misfit(best: Candidate, screened: Screened, question: TrainingQuestion) -> str:
    """The quickest layout that does not fit, with the winner's cluster and sharding; empty when none is quicker."""
    found: tuple[float, TrainingJob] | None = None
    for cluster in screened.clusters:
        if (cluster.job.gpus, cluster.job.accelerator) != (best.job.gpus, best.job.accelerator):
            continue
        for flags in cluster.flags:
            if any(getattr(flags, name) != getattr(best.job.plan, name) for name in _SHARED):
                continue
            job = cluster.job.model_copy(update={"plan": flags})
            mine = cluster.table.take(runnable(cluster.table, flags, question, cluster.job))
            mine = mine.take(peak_bytes(job, mine.degrees()) > job.accelerator.memory_bytes)
            if len(mine):
                seconds = step_costs(job, mine.degrees()).seconds
                i = int(np.argmin(seconds))
                if seconds[i] < (found[0] if found else best.step.seconds):
                    found = (float(seconds[i]), job.model_copy(update={"plan": mine.plan(flags, i)}))
    if found is None:
        return ""
    gain = 1.0 - found[0] / best.step.seconds
    return f"{found[1].plan.label()} would take {gain:.1%} less time but {account(found[1]).reason()}"


_SHARED = ("zero_stage", "zero_group", "compute_dtype", "schedule", "offload_optimizer", "offload_weights")


def flag_problems(question: TrainingQuestion) -> list[Problem]:
    """Values of flags that no layout of the job can have, such as a format that the accelerator does not compute in."""
    problems: list[Problem] = []
    for name, values in question.wanted.items():
        for job, value in product(question.clusters, values):
            try:
                plan = TrainingPlan(**{name: value})
            except ValidationError:
                continue  # it needs other fields beside it, which layouts have
            alone = job.model_copy(update={"plan": plan, "gpus": 1, "global_batch_sequences": 1})
            problems += [p for p in job_problems(alone) if p.path == f"plan.{name}" and name in _ALONE]
    return list(dict.fromkeys(problems))


_ALONE = ("compute_dtype", "recompute_layers")
"""Flags whose values are right or wrong whatever the degrees."""


def without_layout(question: TrainingQuestion, screened: Screened) -> list[Problem]:
    """Why no layout is valid: what is wrong with the degrees that were named, or with the batch."""
    job = question.clusters[0]
    named = {name: values[0] for name, values in question.wanted.items()}
    if "stage_layers" in named:
        named.setdefault("pipeline_parallel", len(named["stage_layers"]))
    try:
        problems = job_problems(job.model_copy(update={"plan": TrainingPlan(**(job.plan.model_dump() | named))}))
    except ValidationError as error:
        problems = [Problem(item["msg"].removeprefix("Value error, "), "plan") for item in error.errors()]
    few = "" if screened.least_copies <= job.global_batch_sequences else f"at least {screened.least_copies}"
    reasons = [f"{reason} ({count:,} layouts)" for reason, count in screened.invalid.items() if count]
    if reasons and not any(problem.path == "global_batch_sequences" for problem in problems):
        said = "no layout divides the batch: " + "; ".join(reasons)
        problems.append(Problem(said, "", "global_batch_sequences", str(job.global_batch_sequences), few))
    if not problems:
        able = question.features
        schedules, stages = ", ".join(able.schedules) or "none", ", ".join(map(str, able.staged_zero)) or "none"
        said = (
            f"{job.engine} runs no layout with these values (pipeline schedules: {schedules}; tensor parallelism: "
            f"{'yes' if able.tensor else 'no'}; ZeRO {', '.join(map(str, able.zero))}, with a pipeline {stages})"
        )
        problems.append(Problem(said, "", "plan", ", ".join(f"{k}={v}" for k, v in named.items())))
    return problems
