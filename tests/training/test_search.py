"""The search: its winner is that of brute force, what it reports fits, and it answers the same every time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import assembled_job, job_problems, training_job
from windtunnel.training.memory import account
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.screen import screen
from windtunnel.training.search import ALIKE, SPREAD, Search, TrainingAnswer, price_layout, search_layouts
from windtunnel.training.step import PARTS, StepTime, price


def cluster(model: str = "llama-3.1-8b", gpus: int = 16, batch: int = 32, seq: int = 4096, **more: Any) -> TrainingJob:
    device = more.pop("device", "h100-sxm")
    return assembled_job(model, device, gpus=gpus, global_batch_sequences=batch, seq_len=seq, **more)


def answer(*jobs: TrainingJob, **more: Any) -> TrainingAnswer:
    return search_layouts(TrainingQuestion(jobs or (cluster(),), **more))


JOBS = {
    "8b": cluster(),
    "70b": cluster("llama-3.1-70b", 64, 64),
    "8b-l40s": cluster("llama-3.1-8b", 32, 64, device="l40s"),
}


@cache
def brute_force(name: str) -> dict[TrainingPlan, StepTime]:
    """Every layout of a small space that is valid and fits, with its step."""
    job, found = JOBS[name], {}
    for tp, pp, virtual, micro, zero, again in product(
        (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4), (1, 2), (0, 1), ("none", "full")
    ):
        if job.gpus % (tp * pp) or (virtual > 1 and pp == 1):
            continue
        plan = TrainingPlan(
            tensor_parallel=tp,
            pipeline_parallel=pp,
            virtual_stages=virtual,
            micro_batch=micro,
            zero_stage=zero,
            recompute=again,
            sequence_parallel=tp > 1,
        )
        one = job.model_copy(update={"plan": plan})
        if not job_problems(one) and account(one).fits:
            found[plan] = price(one)
    return found


SMALL = {
    "pipeline_parallel": (1, 2, 4, 8),
    "context_parallel": (1,),
    "virtual_stages": (1, 2, 4),
    "micro_batch": (1, 2),
    "zero_stage": (0, 1),
    "zero_group": (0,),
    "recompute": ("none", "full"),
    "tp_overlap": (False,),
    "context_method": ("ring",),
}


@pytest.mark.parametrize("objective", ["time", "price", "energy"])
@pytest.mark.parametrize("name", JOBS)
def test_the_winner_is_brute_forces(name: str, objective: Any) -> None:
    every = brute_force(name)
    found = answer(JOBS[name], objective=objective, wanted=SMALL)
    assert found.best is not None
    assert found.counts.fit >= len(every) * 0.5
    cost = {plan: step.joules if objective == "energy" else step.seconds for plan, step in every.items()}
    least = min(cost.values())
    mine = found.best.step.joules if objective == "energy" else found.best.step.seconds
    assert mine == pytest.approx(least, rel=1e-9)
    for candidate in found.candidates:
        step = every.get(candidate.job.plan)
        assert step is not None, candidate.label
        assert candidate.step.seconds == step.seconds


@pytest.mark.parametrize(
    ("job", "wanted"),
    [
        (cluster("llama-3.1-405b", 1024, 512, 8192), {}),
        pytest.param(cluster("mixtral-8x7b", 64, 256), {}, marks=pytest.mark.slow),
        pytest.param(cluster("llama-3.1-8b", 96, 1152, engine="internevo"), {}, marks=pytest.mark.slow),
        (cluster("llama-3.1-8b", 96, 1152), {"schedule": ("dualpipe", "zero-bubble", "gpipe")}),
    ],
    ids=["405b", "mixtral", "internevo", "schedules"],
)
def test_played_pipelines_stay_within_what_the_search_allows_for(job: TrainingJob, wanted: Any) -> None:
    """No layout comes out further below its closed form than the search expects, alone or among its kind."""
    search = Search(TrainingQuestion((job,), wanted=wanted), None)
    blocks, rng = search.screened.blocks, np.random.default_rng(1)
    ratios: dict[tuple[object, ...], list[float]] = {}
    for _ in range(40):
        b = int(rng.integers(len(blocks)))
        i = int(rng.integers(len(blocks[b].seconds)))
        ratio = price(blocks[b].layout(i)).seconds / float(blocks[b].seconds[i])
        ratios.setdefault(search._kind((b, i)), []).append(ratio)
    assert min(map(min, ratios.values())) > 1.0 - SPREAD
    near = [min(found) / max(found) for found in ratios.values()]
    assert np.quantile(near, 0.05) > 1.0 - ALIKE


FEW = {
    "context_parallel": (1,),
    "tp_overlap": (False,),
    "zero_group": (0,),
    "virtual_stages": (1, 2, 4),
    "micro_batch": (1, 2),
}


def test_everything_reported_fits_and_has_a_reason() -> None:
    found = answer(cluster("mixtral-8x7b", 32, 64), wanted=FEW)
    assert found.best is found.candidates[0]
    assert found.fits
    costs = [candidate.cost("time") for candidate in found.candidates]
    assert costs == sorted(costs)
    for candidate in found.candidates:
        assert job_problems(candidate.job) == []
        assert account(candidate.job) == candidate.memory
        assert candidate.memory.fits
        assert candidate.why
        assert sum(candidate.step.parts[name] for name in PARTS) == pytest.approx(candidate.step.seconds)
    assert 0 in found.frontier
    kinds = {rejected.reason: rejected for rejected in found.rejected}
    misfits = kinds["do not fit in memory"]
    assert misfits.layouts == found.counts.valid - found.counts.fit
    assert "less time but does not fit" in misfits.example


def test_the_answer_is_the_same_every_time() -> None:
    first, second = answer(wanted=FEW), answer(wanted=FEW)
    assert replace(first, elapsed_s=0.0) == replace(second, elapsed_s=0.0)


def test_more_memory_never_makes_the_winner_worse() -> None:
    job = cluster("llama-3.1-70b", 32, 32)
    best = float("inf")
    for scale in (1.0, 1.6, 2.5):
        larger = job.accelerator.model_copy(update={"memory_bytes": job.accelerator.memory_bytes * scale})
        found = answer(job.model_copy(update={"accelerator": larger}), wanted=FEW)
        assert found.best is not None
        assert found.best.step.seconds <= best * (1 + 1e-9)
        best = found.best.step.seconds


def test_more_clusters_are_compared_by_the_objective() -> None:
    jobs = [cluster(gpus=gpus, batch=64) for gpus in (8, 16, 32)]
    quick = answer(*jobs, wanted=FEW)
    assert quick.best is not None
    assert quick.best.job.gpus == 32
    cheap = answer(*jobs, objective="price", wanted=FEW)
    assert cheap.best is not None
    assert cheap.best.usd_per_million_tokens <= quick.best.usd_per_million_tokens
    frugal = answer(*jobs, objective="energy", wanted=FEW)
    assert frugal.best is not None
    assert frugal.best.joules_per_token <= min(cheap.best.joules_per_token, quick.best.joules_per_token)
    assert {candidate.job.gpus for candidate in cheap.candidates} == {8, 16, 32}


def test_what_does_not_fit_names_the_smallest_cluster() -> None:
    found = answer(cluster("llama-3.1-405b", 8, 16, engine="torchtitan"))
    assert found.best is None
    assert not found.fits
    assert found.smallest is not None
    assert found.smallest.gpus > 8
    assert found.nearest is not None
    assert not found.nearest.fits
    larger = cluster("llama-3.1-405b", found.smallest.gpus, found.smallest.gpus * 4)
    assert account(larger.model_copy(update={"plan": found.smallest.plan})).fits


def test_offloading_is_tried_only_when_nothing_fits_without() -> None:
    without = answer(cluster("llama-3.1-8b", 8, 16), wanted=FEW)
    assert all(c.job.plan.offload_optimizer == "none" for c in without.candidates)
    assert without.notes == ()
    found = answer(cluster("llama-3.1-70b", 8, 64), wanted=FEW)
    assert found.best is not None
    assert found.best.job.plan.offload_optimizer == "host"
    assert found.best.step.parts["optimizer"] > 0
    assert "keep optimiser states outside" in found.notes[0]
    assert screen(TrainingQuestion((cluster("llama-3.1-70b", 8, 64),))).blocks == []


def test_a_token_budget_is_steps_times_the_step() -> None:
    found = answer(tokens=1e12, prices={"h100-sxm": 2.0})
    assert found.best is not None
    assert found.budget is not None
    assert found.budget.seconds == pytest.approx(1e12 / found.best.job.tokens * found.best.step.seconds)
    assert found.budget.usd == pytest.approx(found.budget.seconds / 3600 * 16 * 2.0)
    assert found.budget.joules == pytest.approx(1e12 * found.best.joules_per_token)


def test_a_given_layout_is_priced_as_it_is() -> None:
    plan = TrainingPlan(tensor_parallel=2, sequence_parallel=True, zero_stage=1)
    job = training_job("llama-3.1-8b", "h100-sxm", gpus=16, global_batch_sequences=32, seq_len=4096, plan=plan)
    found = price_layout(job, timeline=True)
    assert found.given
    assert found.best is not None
    assert found.best.step.seconds == price(job).seconds
    assert found.best.step.timeline
    large = training_job("llama-3.1-70b", "h100-sxm", gpus=8, global_batch_sequences=8, seq_len=4096)
    misfit = price_layout(large)
    assert misfit.best is not None
    assert not misfit.fits
    assert "does not fit" in misfit.best.why


def test_an_interrupted_search_keeps_the_best_so_far() -> None:
    def stop(done: int, total: int, what: str) -> None:
        if "layout" not in what:
            raise KeyboardInterrupt

    question = TrainingQuestion((cluster(),), wanted=FEW)
    found = search_layouts(question, progress=stop)
    assert found.interrupted
    assert found.best is not None
    assert found.best.step.seconds >= answer(wanted=FEW).candidates[0].step.seconds
    assert "interrupted" in found.notes[0]
