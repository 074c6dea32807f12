"""The space of layouts: everything in it is a valid job, and nothing valid is missing."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import assembled_job, job_problems
from windtunnel.training.memory import account
from windtunnel.training.memory_fits import peak_bytes
from windtunnel.training.question import DEGREES, TrainingQuestion, engine_features
from windtunnel.training.space import divided, divisors, flag_sets, runnable, table_of, thinned


def question(model: str = "llama-3.1-8b", gpus: int = 16, batch: int = 32, seq: int = 4096, **more: Any) -> Any:
    wanted = more.pop("wanted", {})
    job = assembled_job(model, "h100-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=seq, **more)
    return TrainingQuestion((job,), wanted=wanted)


def layouts(asked: TrainingQuestion) -> list[TrainingJob]:
    job = asked.clusters[0]
    table = table_of(job, asked.features, asked.wanted)
    table = table.take(np.logical_and.reduce(list(divided(table, job).values())))
    found = []
    for flags in flag_sets(asked, job):
        mine = table.take(runnable(table, flags, asked, job))
        found += [job.model_copy(update={"plan": mine.plan(flags, i)}) for i in range(len(mine))]
    return found


@pytest.mark.parametrize(
    ("model", "gpus", "batch", "engine"),
    [
        ("llama-3.1-8b", 16, 32, "megatron"),
        ("llama-3.1-8b", 24, 36, "torchtitan"),
        ("llama-3.1-8b", 12, 24, "fsdp"),
        ("llama-3.1-8b", 16, 16, "deepspeed"),
        ("llama-3.1-8b", 24, 48, "internevo"),
        ("mixtral-8x7b", 8, 8, "megatron"),
        pytest.param("deepseek-v2-lite", 8, 8, "megatron", marks=pytest.mark.slow),
    ],
)
def test_every_layout_is_a_valid_job(model: str, gpus: int, batch: int, engine: Any) -> None:
    found = layouts(question(model, gpus, batch, engine=engine))
    assert found
    assert len({job.plan for job in found}) == len(found)
    for job in found:
        assert job_problems(job) == [], job.plan.label()


def test_nothing_valid_is_missing() -> None:
    """All combinations of degrees, tried one by one with the checks of a single job."""
    asked = question(gpus=16, batch=16, wanted={"recompute": ("none",), "tp_overlap": (False,), "zero_stage": (0,)})
    found = {job.plan for job in layouts(asked) if job.plan.context_method == "ring"}
    job, expected = asked.clusters[0], set()
    for tp, pp, cp, virtual, micro in product(range(1, 9), range(1, 17), range(1, 5), range(1, 35), range(1, 17)):
        if 16 % (tp * pp * cp) or (virtual > 1 and pp == 1):
            continue
        plan = TrainingPlan(
            tensor_parallel=tp,
            pipeline_parallel=pp,
            context_parallel=cp,
            virtual_stages=virtual,
            micro_batch=micro,
            sequence_parallel=tp > 1,
        )
        if not job_problems(job.model_copy(update={"plan": plan})):
            expected.add(plan)
    # The search also leaves out microbatches beyond its limit of tokens.
    assert found == {plan for plan in expected if plan.micro_batch * 4096 <= 65_536 * plan.context_parallel}


def test_named_values_replace_the_searchs_own() -> None:
    wanted = {"tensor_parallel": (2,), "recompute": ("full",), "zero_stage": (1,), "virtual_stages": (1, 2)}
    found = layouts(question(gpus=16, wanted=wanted))
    assert {job.plan.tensor_parallel for job in found} == {2}
    assert {job.plan.recompute for job in found} == {"full"}
    assert {job.plan.zero_stage for job in found} == {1}
    assert {job.plan.virtual_stages for job in found} == {1, 2}


@pytest.mark.parametrize(
    "wanted",
    [
        {"zero_secondary_group": (4,)},
        {"zero_weight_group": (4,), "zero_stage": (3,)},
        {"zero_group": (3, 4)},
        {"stage_layers": ((7, 9, 9, 7),)},
        {"schedule": ("zero-bubble", "dualpipe", "gpipe", "interleaved")},
        {"context_method": ("ulysses",)},
        {"recompute_layers": (4,)},
        {"lora_rank": (16,)},
        {"sequence_parallel": (False,)},
    ],
)
def test_layouts_with_named_flags_are_valid_too(wanted: dict[str, tuple[Any, ...]]) -> None:
    found = layouts(question(gpus=16, wanted={"tp_overlap": (False,), "micro_batch": (1, 2), **wanted}))
    assert found
    for job in found:
        assert job_problems(job) == [], job.plan.label()
        assert all(getattr(job.plan, name) in values for name, values in wanted.items() if name not in _NORMAL)


_NORMAL = ("sequence_parallel", "context_method", "schedule")
"""Flags that mean nothing on some layouts, and are set to their defaults there."""


def test_engines_are_offered_what_they_can_run() -> None:
    for engine, features in engine_features().items():
        found = layouts(question(gpus=8, batch=16, engine=engine))
        for job in found:
            plan = job.plan
            allowed = features.staged_zero if plan.pipeline_parallel > 1 else features.zero
            assert plan.zero_stage in allowed or plan.zero_stage == 0
            assert plan.pipeline_parallel == 1 or plan.pipeline_schedule in features.schedules
            assert plan.tensor_parallel == 1 or features.tensor
            assert plan.context_parallel == 1 or plan.context_method in features.context_methods


def test_less_recomputation_never_takes_less_memory() -> None:
    """What the screening relies on when it looks at full recomputation first."""
    asked = question(gpus=64, batch=64)
    job = asked.clusters[0]
    table = table_of(job, asked.features, {})
    table = table.take(np.logical_and.reduce(list(divided(table, job).values())))
    for zero, tp_parallel in product((0, 1, 3), (True, False)):
        sizes = []
        for recompute in ("full", "selective", "none"):
            changed = {"recompute": recompute, "zero_stage": zero, "sequence_parallel": tp_parallel}
            flags = job.plan.model_copy(update=changed)
            sizes.append(peak_bytes(job.model_copy(update={"plan": flags}), table.degrees()))
        assert (sizes[0] <= sizes[1] * (1 + 1e-12)).all()
        assert (sizes[1] <= sizes[2] * (1 + 1e-12)).all()


def test_memory_of_many_layouts_is_that_of_each() -> None:
    """Loads of stages are kept between calls, whatever flags come next."""
    asked = question("deepseek-v2-lite", gpus=16, batch=64, wanted={"zero_stage": (1,), "recompute": ("none",)})
    job = asked.clusters[0]
    table = table_of(job, asked.features, asked.wanted)
    table = table.take(np.logical_and.reduce(list(divided(table, job).values())))
    table = table.take(np.arange(0, len(table), 37))
    for changed in ({}, {"mtp_layers": 1}, {"schedule": "zero-bubble"}, {"sequence_parallel": True}):
        flags = TrainingPlan(zero_stage=1, **changed)
        mine = table.take(table.virtual == 1) if "schedule" in changed else table
        found = peak_bytes(job.model_copy(update={"plan": flags}), mine.degrees())
        for i, size in enumerate(found):
            plan = flags.model_copy(update=mine.plan(flags, i).model_dump(include=set(DEGREES)))
            assert account(job.model_copy(update={"plan": plan})).total_bytes == pytest.approx(size, rel=1e-9)


def test_thinning_keeps_one_number_of_stages_per_chunk_size() -> None:
    asked = question(gpus=16, batch=48)
    table = table_of(asked.clusters[0], asked.features, {})
    few = thinned(table, 32)
    assert set(few.micro.tolist()) <= {1, 2, 4, 8, 16, 32}
    for pp in divisors(16)[1:]:
        kept = np.unique(few.virtual[few.pp == pp])
        sizes = -(-32 // (pp * kept))
        assert len(set(sizes.tolist())) == len(sizes)
        assert set(sizes.tolist()) == set((-(-32 // (pp * np.unique(table.virtual[table.pp == pp])))).tolist())
