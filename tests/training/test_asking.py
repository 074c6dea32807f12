"""What a user writes becomes a question: batch sizes, values to try, plans, clusters."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import SpecError
from windtunnel.specs.training import TrainingPlan
from windtunnel.training import asking
from windtunnel.training.asking import (
    Asked,
    batch_sequences,
    cluster_sizes,
    given_plan,
    jobs_of,
    plan_values,
    values_of,
)


@pytest.mark.parametrize(
    ("text", "seq_len", "sequences"),
    [
        (1024, 8192, 1024),
        ("1024", 8192, 1024),
        ("1k", 8192, 1000),
        ("4M-tokens", 8192, 512),
        ("4M tokens", 4096, 1024),
        ("16M-tokens", 8192, 2048),
        ("0.5M-tokens", 2048, 256),
        ("4M-tokens", 2000, 2000),
        ("4194304-tokens", 8192, 512),
        ("60M-tokens", 4096, 15360),
    ],
)
def test_batches_are_whole_sequences(text: str | int, seq_len: int, sequences: int) -> None:
    assert batch_sequences(text, seq_len) == sequences


@pytest.mark.parametrize("text", ["", "many", "4M-tok", "1.5", "0", "-3", "nan", "1e400", "5-tokens", "100001-tokens"])
def test_other_batches_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="global_batch"):
        batch_sequences(text, 4096)


def test_values_from_text_and_from_mappings_agree() -> None:
    text = plan_values(["tensor-parallel=4,8", "recompute=full", "tp_overlap=true", "stage_layers=7,9,9,7"])
    assert text == values_of(
        {"tensor_parallel": [4, 8], "recompute": "full", "tp_overlap": True, "stage_layers": (7, 9, 9, 7)}
    )
    assert values_of({"stage_layers": [(16, 16), (7, 9, 9, 7)]})["stage_layers"] == ((16, 16), (7, 9, 9, 7))


def test_every_wrong_value_is_said() -> None:
    with pytest.raises(SpecError) as caught:
        plan_values(["zero_stage=9", "recompute=some", "tensor_parallel=0", "pipeline", "depth=3"])
    assert len(caught.value.problems) == 5


def test_plans_from_presets_files_and_as_they_are(tmp_path: Path) -> None:
    plan, engine = given_plan("zero-3", {"micro_batch": (4,)})
    assert (plan.zero_stage, plan.micro_batch, engine) == (3, 4, "deepspeed")
    (tmp_path / "plan.yaml").write_text("tensor-parallel: 2\nzero_stage: 1\n")
    plan, engine = given_plan(str(tmp_path / "plan.yaml"), {})
    assert (plan.tensor_parallel, plan.zero_stage, engine) == (2, 1, None)
    assert given_plan(TrainingPlan(micro_batch=2), {"zero_stage": (1,)})[0].micro_batch == 2
    (tmp_path / "wrong.yaml").write_text("tensor_paralel: 2\n")
    with pytest.raises(SpecError, match="did you mean 'tensor_parallel'"):
        given_plan(str(tmp_path / "wrong.yaml"), {})
    with pytest.raises(SpecError, match="did you mean 'zero-offload'"):
        given_plan("zero-ofload", {})


@pytest.mark.parametrize(("given", "sizes"), [(8, (8,)), ("8, 16,8", (8, 16)), ([4, 2], (4, 2))])
def test_numbers_of_accelerators(given: Any, sizes: tuple[int, ...]) -> None:
    assert cluster_sizes(given) == sizes


@pytest.mark.parametrize("given", ["", "8,x", 0, "-8", [], 2.5])
def test_other_numbers_are_refused(given: Any) -> None:
    with pytest.raises(SpecError, match="whole numbers above 0"):
        cluster_sizes(given)


def test_every_cluster_is_a_job() -> None:
    asked = Asked(
        model="llama-3.1-8b",
        accelerators=("h100-sxm", "b200-sxm"),
        gpus=(8, 16),
        global_batch="1M-tokens",
        seq_len=4096,
        fabric="ethernet-100g",
    )
    jobs = jobs_of(asked)
    assert [(job.accelerator.name, job.gpus) for job in jobs] == [
        ("h100-sxm", 8), ("h100-sxm", 16), ("b200-sxm", 8), ("b200-sxm", 16)
    ]  # fmt: skip
    assert {job.scale_out.name for job in jobs} == {"ethernet-100g"}
    assert {job.global_batch_sequences for job in jobs} == {256}


def test_examples_in_the_module_hold() -> None:
    assert doctest.testmod(asking).failed == 0
