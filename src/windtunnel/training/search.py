"""The best layouts of a training job, or one given layout taken apart."""

from __future__ import annotations

import time
from collections.abc import Mapping

from windtunnel.specs.prices import price_usd_per_h
from windtunnel.specs.training import TrainingJob
from windtunnel.training.answer import Budget, Candidate, Counts, Objective, Rejected, TrainingAnswer, budget_of
from windtunnel.training.memory import account
from windtunnel.training.offload import check_offload, is_offloaded
from windtunnel.training.step import price

__all__ = ["Budget", "Candidate", "Counts", "Objective", "Rejected", "TrainingAnswer", "price_layout"]


def candidate_of(job: TrainingJob, prices: Mapping[str, float], *, timeline: bool = False) -> Candidate:
    """A layout priced with its pipeline played out, and its memory accounted.

    Args:
        job: a valid job.
        prices: the user's own US dollars per accelerator and hour, by accelerator name.
        timeline: keep the passes of every pipeline rank.

    Raises:
        InfeasibleError: the node's host memory or drives do not hold what is offloaded.
    """
    if is_offloaded(job):
        check_offload(job)
    usd_per_h = price_usd_per_h(job.accelerator.name, overrides=prices).usd_per_h
    return Candidate(job, price(job, timeline=timeline), account(job), usd_per_h)


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
    """
    started = time.perf_counter()
    found = candidate_of(job, prices or {}, timeline=timeline)
    fits = found.memory.fits
    return TrainingAnswer(
        asked=asked or job.model.name,
        objective="time",
        best=found,
        candidates=(found,) if fits else (),
        frontier=(0,) if fits else (),
        counts=Counts(1, 1, int(fits), 1),
        budget=budget_of(found, tokens) if tokens else None,
        elapsed_s=time.perf_counter() - started,
        given=True,
    )
