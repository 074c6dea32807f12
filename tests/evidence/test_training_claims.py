from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from helpers import shared_file
from windtunnel.evidence.table import Row, read_table
from windtunnel.evidence.training import counted_flops, predict_training, training_claims
from windtunnel.evidence.training_jobs import dictionary, job_of, recipe_of
from windtunnel.specs.load import resolve
from windtunnel.training.flops import training_flops_per_token

BRIDGE = {
    "source": "NVIDIA-NeMo/Megatron-Bridge docs", "model": "LLAMA3-70B", "gpu": "H100-SXM-80GB", "n_gpus": "64",
    "tp": "4", "pp": "8", "vpp": "5", "cp": "1", "ep": "1", "micro_batch": "1", "global_batch": "128",
    "seq_len": "8192", "dtype": "fp8", "recompute": "see recipe", "zero_stage": "1 (distributed optimizer)",
    "metric_name": "tokens_per_sec_per_gpu",
}  # fmt: skip


def row(**changes: str) -> Row:
    return Row(2, {**BRIDGE, **changes})


def test_a_row_becomes_its_job() -> None:
    job = job_of(row())
    plan = job.plan
    assert (job.model.name, job.accelerator.name, job.gpus) == ("llama-3-70b", "h100-sxm", 64)
    assert (plan.tensor_parallel, plan.pipeline_parallel, plan.virtual_stages, job.data_parallel) == (4, 8, 5, 2)
    assert plan.sequence_parallel
    assert plan.compute_dtype == "fp8"
    assert job.microbatches == 64


def test_figures_of_one_run_agree() -> None:
    """Tokens, FLOPs and utilisation of a row are one prediction in three units."""
    rate, _ = predict_training(row())
    flops, _ = predict_training(row(metric_name="TFLOPs_per_gpu"))
    share, _ = predict_training(row(metric_name="MFU"))
    seconds, _ = predict_training(row(metric_name="iteration_time_s"))
    per_token = training_flops_per_token(resolve("models", "llama-3-70b"), 8192)
    assert flops == pytest.approx(rate * per_token / 1e12)
    assert share == pytest.approx(100.0 * flops / 1979.0, rel=0.01)
    assert seconds == pytest.approx(128 * 8192 / 64 / rate)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "Nobody-7B"}, "not in the catalogue"),
        ({"gpu": "Abacus"}, "not in the catalogue"),
        ({"source": "somebody's blog"}, "no recipe"),
        ({"dtype": "fp12"}, "unknown number format"),
        ({"seq_len": ""}, "seq_len is not stated"),
        ({"n_gpus": "63"}, "63"),
        ({"metric_name": "joy"}, "not one that is predicted"),
    ],
)
def test_what_cannot_be_predicted_says_why(changes: dict[str, str], why: str) -> None:
    said = predict_training(row(**changes))
    assert isinstance(said, str)
    assert why in said


def test_every_recipe_says_where_its_settings_come_from() -> None:
    for recipe in dictionary().recipes:
        assert len(recipe.why) > 20, recipe.source


def test_sources_count_flops_as_we_think() -> None:
    """Where a source gives tokens and FLOPs of one run, their ratio is its FLOPs per token, whatever the speed."""
    by_run: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    same = (
        "source",
        "model",
        "gpu",
        "n_gpus",
        "tp",
        "pp",
        "cp",
        "ep",
        "micro_batch",
        "global_batch",
        "seq_len",
        "dtype",
    )
    with shared_file("evidence", "training.csv").open(encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            key = (*(cells[name] for name in same), cells["notes"][:40], cells["recompute"])
            by_run.setdefault(key, {})[cells["metric_name"]] = cells
    ratios: dict[str, list[float]] = {}
    for figures in by_run.values():
        if not {"TFLOPs_per_gpu", "tokens_per_sec_per_gpu"} <= set(figures):
            continue
        one = Row(0, figures["TFLOPs_per_gpu"])
        recipe = recipe_of(one)
        if recipe is None or isinstance(predict_training(one), str):
            continue
        stated = one.number("metric_value") * 1e12 / float(figures["tokens_per_sec_per_gpu"]["metric_value"])
        ratios.setdefault(recipe.source, []).append(stated / counted_flops(job_of(one), recipe.flops))
    assert {"Megatron-Bridge", "NVIDIA/NeMo", "InternEvo"} <= set(ratios)
    for source, found in ratios.items():
        assert float(np.median(found)) == pytest.approx(1.0, abs=0.02), source


def test_accuracy_on_published_training_runs() -> None:
    """The median error over tier A stays within its budget, and nearly every row is predicted."""
    table = read_table(shared_file("evidence", "training.csv")).keep(tier="A", split="check")
    claims = training_claims(table)
    errors = [abs(c.predicted / c.measured - 1.0) for c in claims if math.isfinite(c.predicted)]
    assert len(errors) >= 0.85 * len(claims)
    assert float(np.median(errors)) < 0.08
    assert (
        float(np.quantile(errors, 0.9)) < 0.32
    )  # the goal is 0.20: experts of small microbatches, see docs/accuracy.md


def bridge(release: str, **changes: str) -> Row:
    experts = {"vpp": "", "pp": "1", "tp": "1", "ep": "8", "n_gpus": "8", "seq_len": "4096", "global_batch": "512"}
    return row(**({"source": f"NVIDIA-NeMo/Megatron-Bridge docs [{release} Pre-Training]"} | experts | changes))


def test_a_recipe_goes_by_release_device_and_format() -> None:
    """Whole-step graphs, overlap and fused experts came to mxfp8 on GB200 with release 26.06."""
    qwen = {"model": "Qwen3-30B-A3B", "gpu": "GB200-192GB", "dtype": "mxfp8"}
    old, new = job_of(bridge("26.04.01", **qwen)).plan, job_of(bridge("26.06", **qwen)).plan
    assert (old.moe_fused_dispatch, old.moe_overlap, old.moe_fused_experts, old.cuda_graphs) == (
        True,
        False,
        False,
        False,
    )
    assert (new.moe_overlap, new.moe_fused_experts, new.cuda_graphs, new.attention_dtype) == (True, True, True, "fp8")
    assert not job_of(bridge("26.06", **(qwen | {"dtype": "bf16"}))).plan.moe_overlap
    assert not job_of(bridge("25.11", **(qwen | {"dtype": "fp8-mx"}))).plan.moe_fused_dispatch


def test_notes_and_layouts_choose_too() -> None:
    deepseek = {"model": "DeepSeekV3", "gpu": "GB200-192GB", "dtype": "bf16", "n_gpus": "256", "ep": "64", "pp": "4"}
    assert job_of(bridge("25.11", **deepseek)).plan.mtp_layers == 1
    assert job_of(bridge("25.11", notes="DeepSeekV3 (w/o MTP)", **deepseek)).plan.mtp_layers == 0
    oss = {"model": "GPT-OSS-120B", "gpu": "B300-288GB", "dtype": "bf16", "n_gpus": "64", "global_batch": "1280"}
    assert job_of(bridge("26.02", **oss)).plan.moe_fused_dispatch
    assert not job_of(bridge("26.02", **(oss | {"ep": "64"}))).plan.moe_fused_dispatch


def test_sharded_weights_are_read_from_the_row() -> None:
    plan = job_of(row(tp="1", pp="1", vpp="", zero_stage="FSDP 64")).plan
    assert (plan.zero_stage, plan.zero_group) == (3, 64)
    assert job_of(row()).plan.zero_stage == 1


def test_releases_counted_flops_differently() -> None:
    """Before 26.06 two matrices an MLP for activations other than SiLU, and no windows: 27.2 against 32.6 GFLOPs."""
    oss = {"model": "GPT-OSS-120B", "gpu": "GB200-192GB", "dtype": "bf16", "n_gpus": "64", "ep": "64"}
    for release, gigaflops in (("26.02", 27.2), ("26.06", 32.6)):
        one = bridge(release, **oss)
        recipe = recipe_of(one)
        assert recipe is not None
        assert counted_flops(job_of(one), recipe.flops) / 1e9 == pytest.approx(gigaflops, rel=0.01)


def test_a_variant_may_name_its_server() -> None:
    titan = {"source": "pytorch/torchtitan benchmarks", "gpu": "H100-96GB-HBM2e (500W, 2.4TB/s)", "vpp": "", "pp": "1"}
    found = job_of(row(**titan, tp="8", zero_stage="3 (FSDP2)"))
    assert (found.node.accelerators, found.accelerator.name) == (8, "h100-96g-sxm")
