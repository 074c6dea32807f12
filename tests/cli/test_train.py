"""`windtunnel train`: answers, files, mistakes and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windtunnel.cli.main import app

run = CliRunner()
FEW = [
    word
    for value in ("context_parallel=1", "tp_overlap=false", "zero_group=0", "micro_batch=1,2")
    for word in ("--set", value)
]


def train(*more: str, model: str = "llama-3.1-8b", gpus: str = "16", batch: str = "64", seq: str = "4096") -> list[str]:
    job = ["--model", model, "--accelerator", "h100-sxm", "--gpus", gpus, "--global-batch", batch, "--seq", seq]
    return ["train", *job, *more]


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"JSON holds {name}"))


def refused(*more: str, says: tuple[str, ...], **job: str) -> None:
    done = run.invoke(app, train(*more, **job))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr
    for text in says:
        assert text in done.stderr


def test_the_answer_says_what_where_and_why(tmp_path: Path) -> None:
    done = run.invoke(app, train(*FEW, "--tokens", "1T", "--json", str(tmp_path / "out.json")))
    assert done.exit_code == 0, done.output
    text = done.stdout
    assert text.startswith("Train llama-3.1-8b on 16 x h100-sxm as ")
    assert max(map(len, text.splitlines())) <= 80
    for heading in ("Layout", "Where the time goes", "Memory at its peak", "Runners-up", "Rejected"):
        assert f"\n{heading}" in text
    for figure in ("MFU", "80 % interval", "Bound by", "times that", "J per token", "per million tokens", "1T tokens"):
        assert figure in text
    answer = strict_json((tmp_path / "out.json").read_text())
    best = answer["best"]
    assert sum(best["parts_s"].values()) == pytest.approx(best["step_s"])
    assert best["step_interval_s"][0] < best["step_s"] < best["step_interval_s"][1]
    assert best["limit_s"] / best["step_s"] == pytest.approx(best["mfu"])
    parts = sum(part["bytes"] for part in best["memory"]["parts"])
    assert parts == pytest.approx(best["memory"]["total_bytes"])
    assert answer["budget"]["tokens"] == 1e12
    assert answer["counts"]["fit"] >= len(answer["candidates"])
    assert answer["candidates"][0] == best


def test_json_alone_goes_to_standard_output() -> None:
    done = run.invoke(app, train(*FEW, "--json", "-"))
    assert strict_json(done.stdout)["fits"] is True


def test_settings_and_flags_ask_the_same(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "model: llama-3.1-8b\naccelerator: h100-sxm\ngpus: 16\nglobal-batch: 64\nseq: 4096\n"
        "set: {context_parallel: 1, tp_overlap: false, zero_group: 0, micro_batch: [1, 2]}\n"
    )
    named = run.invoke(app, ["train", "--settings", str(tmp_path / "job.yaml"), "--json", "-"])
    flags = run.invoke(app, train(*FEW, "--json", "-"))
    both = [strict_json(done.stdout) for done in (named, flags)]
    for answer in both:
        del answer["elapsed_s"]
    assert both[0] == both[1]


def test_one_given_layout(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("tensor_parallel: 2\nsequence_parallel: true\nzero_stage: 1\nmicro_batch: 2\n")
    done = run.invoke(app, train("--plan", str(tmp_path / "plan.yaml"), "--set", "recompute=full"))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("TP2 PP1 ZeRO1 mb2 full recompute bf16 on 16 x h100-sxm trains llama-3.1-8b")
    assert "Runners-up" not in done.stdout


def test_a_plan_in_a_settings_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "model: llama-3.1-8b\naccelerator: h100-sxm\ngpus: 16\nglobal_batch: 64\nseq: 4096\n"
        "plan: {tensor_parallel: 2, sequence_parallel: true, zero_stage: 1}\n"
    )
    done = run.invoke(app, ["train", "--settings", str(tmp_path / "job.yaml"), "--json", "-"])
    assert done.exit_code == 0, done.output
    assert strict_json(done.stdout)["best"]["label"] == "TP2 PP1 ZeRO1 mb1 bf16"


def test_an_accelerator_of_ones_own_needs_a_price_only_for_the_price(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text("extends: h100-sxm\nname: my-card\nmemory_bytes: 120 GB\n")
    own = ["--accelerator", str(tmp_path / "card.yaml"), *FEW]
    done = run.invoke(app, train(*own))
    assert done.exit_code == 0, done.output
    assert "per million tokens" not in done.stdout
    refused(*own, "--objective", "price", says=("no price is known", "my-card"))
    priced = run.invoke(app, train(*own, "--objective", "price", "--price", "my-card=2"))
    assert priced.exit_code == 0, priced.output
    assert "$32.00 per hour ($2.00 an accelerator)" in " ".join(priced.stdout.split())


def test_report_timeline_and_launch_are_written(tmp_path: Path) -> None:
    files = {flag: tmp_path / f"train.{flag}" for flag in ("html", "perfetto")}
    paths = [word for flag, path in files.items() for word in (f"--{flag}", str(path))]
    done = run.invoke(app, train(*FEW, "--set", "pipeline_parallel=4", "--launch", *paths))
    assert done.exit_code == 0, done.output
    assert "pretrain_gpt.py" in done.stdout
    assert "<html" in files["html"].read_text()
    trace = strict_json(files["perfetto"].read_text())
    assert {event["pid"] for event in trace["traceEvents"]} >= {0, 1, 2, 3}


def test_a_preset_as_the_layout() -> None:
    done = run.invoke(app, train("--plan", "fsdp", "--json", "-"))
    assert done.exit_code == 0, done.output
    answer = strict_json(done.stdout)
    assert answer["best"]["plan"]["zero_stage"] == 3
    assert answer["job"]["engine"] == "torchtitan"


def test_a_layout_that_does_not_fit_is_a_no() -> None:
    done = run.invoke(app, train("--plan", "megatron-lm", model="llama-3.1-70b"))
    assert done.exit_code == 1
    assert "does not fit: gradients" in " ".join(done.stdout.split())


def test_a_model_that_fits_nowhere_names_the_smallest_cluster() -> None:
    done = run.invoke(app, train(*FEW, "--engine", "internevo", model="llama-3.1-405b", gpus="8"))
    assert done.exit_code == 1
    assert "The smallest cluster that would hold it has" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_objectives_and_clusters_are_compared() -> None:
    found = {}
    for objective in ("time", "price"):
        done = run.invoke(app, train(*FEW, "--objective", objective, "--json", "-", gpus="8,32"))
        found[objective] = strict_json(done.stdout)["best"]
    assert found["time"]["gpus"] == 32
    assert found["price"]["usd_per_million_tokens"] <= found["time"]["usd_per_million_tokens"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--objective", "cheap"], ("not an allowed value", "time, price, energy")),
        (["--engine", "megaton"], ("did you mean 'megatron'?",)),
        (["--set", "tensor_paralel=8"], ("did you mean 'tensor_parallel'?",)),
        (["--set", "zero_stage=7"], ("zero_stage", "0, 1, 2 or 3")),
        (["--set", "tensor_parallel"], ("KEY=VALUE",)),
        (["--precision", "bf16,fp9"], ("'fp9'",)),
        (["--precision", "fp4", "--set", "compute_dtype=bf16"], ("is given by --set compute_dtype as well",)),
        (["--optimizer", "adam"], ("'adamw'",)),
        (["--tokens", "many"], ("--tokens", "such as 15T")),
        (["--plan", "no-such"], ("no such plan",)),
        (["--plan", "fsdp", "--set", "micro_batch=1,2"], ("one value of each field",)),
        (["--node", "dgx-a100-80g"], ("the node holds a100-80g-sxm, not h100-sxm",)),
        (["--fabric", "infiniband"], ("fabric",)),
        (["--set", "recompute_layers=99"], ("recompute_layers", "at most 32")),
        (["--set", "stage_layers=7,9,9"], ("must divide the accelerators",)),
        (["--set", "stage_layers=7,9,9,8"], ("stage_layers add up to 33, the model has 32 layers",)),
        (["--engine", "fsdp", "--set", "pipeline_parallel=2"], ("fsdp runs no layout", "pipeline schedules: none")),
        (["--top", "-1"], ("--top",)),
        (["--perfetto", "/no/such/folder/out.json"], ("folder does not exist",)),
        (["--json", "/no/such/folder/out.json"], ("folder does not exist",)),
        (["--price", "h100-sxm=cheap"], ("NAME=DOLLARS",)),
    ],
)
def test_mistakes(more: list[str], says: tuple[str, ...]) -> None:
    refused(*more, says=says)


@pytest.mark.parametrize(
    ("job", "more", "says"),
    [
        ({"batch": "4M-tok"}, (), ("4M-tokens",)),
        ({"batch": "100000-tokens"}, (), ("whole sequences of 4096 tokens", "24 or 25 sequences")),
        ({"gpus": "0"}, (), ("whole numbers above 0",)),
        ({"seq": "0"}, (), ("--seq", "1 or more")),
        ({"model": "lama-3.1-8b"}, (), ("did you mean 'llama-3.1-8b'?",)),
        # A batch smaller than the data-parallel ranks.
        ({"batch": "2"}, ("--set", "tensor_parallel=1", "--set", "pipeline_parallel=1", "--set", "context_parallel=1"),
         ("fewer sequences than the 16 data-parallel ranks", "at least 16")),
        # Degrees that do not divide, in a search and as a given layout.
        ({}, ("--set", "tensor_parallel=3"), ("TP must divide the model's 32 query heads, got 3; allowed: 2 or 4",)),
        ({}, ("--plan", "megatron-lm", "--set", "pipeline_parallel=3"), ("PP 3 = 3 must divide", "15 or 18")),
        ({"model": "mixtral-8x7b"}, ("--set", "expert_parallel=3"), ("model's 8 experts, got 3; allowed: 2 or 4",)),
        ({}, ("--set", "expert_parallel=2"), ("has no experts to spread",)),
    ],
)  # fmt: skip
def test_jobs_that_do_not_divide(job: dict[str, str], more: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused(*more, says=says, **job)


def test_everything_wrong_is_said_at_once() -> None:
    done = run.invoke(app, ["train", "--objective", "cheap", "--tokens", "x"])
    assert done.exit_code == 2
    for flag in ("--model", "--accelerator", "--gpus", "--global-batch", "--seq", "--objective", "--tokens"):
        assert f"error: {flag}: " in done.stderr
