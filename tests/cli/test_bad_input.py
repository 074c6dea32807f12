"""Every bad input ends with exit code 2, `error:` lines and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from windtunnel.cli.main import app

run = CliRunner()
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.68,100,20\n"
TRACES = {
    "missing.csv": "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n",
    "empty.csv": "",
    "header.csv": HEAD,
    "nan.csv": HEAD + "2023-11-16 18:15:46.68,nan,44\n",
    "negative.csv": HEAD + "2023-11-16 18:15:46.68,-5,44\n",
    "backwards.csv": HEAD + ROW + "2023-11-16 18:15:40.00,10,10\n",
    "huge.csv": HEAD + "2023-11-16 18:15:46.68,10000000000,44\n",
    "cut.jsonl": '{"timestamp": 0, "input_length": 10, "output_length": 5}\n{"timestamp": 5, "input_le',
}


def refused(arguments: list[str], *says: str) -> str:
    done = run.invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("error: ") for line in lines), done.stderr
    for text in says:
        assert text in done.stderr
    return done.stderr


def plan(*arguments: str) -> list[str]:
    return ["plan", "--model", "llama-3.1-8b", "--accelerator", "h100-sxm", *arguments]


@pytest.mark.parametrize("name", TRACES)
def test_bad_traces(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TRACES[name])
    refused(plan("--trace", str(tmp_path / name)), name)


def test_unreadable_traces(tmp_path: Path) -> None:
    (tmp_path / "random.parquet").write_bytes(os.urandom(4096))
    refused(plan("--trace", str(tmp_path / "random.parquet")))
    refused(plan("--trace", str(tmp_path / "none.csv")))
    refused(plan("--trace", str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "meta-llama/Lama-3.1-8B"], "did you mean"),
        (["--slo", "ttfx_p99<2s"], "did you mean 'ttft'?"),
        (["--slo", "ttft_p99<-2s"], "must be positive"),
        (["--slo", ""], "no target given"),
        (["--accelerator", "h1000"], "did you mean"),
        (["--accelerator", ","], "names nothing"),
        (["--max-gpus", "-3"], "1 or more"),
        (["--rate", "-1"], "above 0"),
        (["--rate", "nan"], "above 0"),
        (["--rate", "1", "--rate-scale", "2"], "cannot be combined"),
        (["--rate-scale", "inf"], "above 0"),
        (["--limit", "0"], "1 or more"),
        (["--workload", "azure-conv", "--trace", "x.csv"], "not both"),
        (["--workload", "azure-conversatoin"], "did you mean 'azure-conversation'?"),
        (["--engine", "vlm"], "did you mean 'vllm'?"),
        (["--precisions", "bf16,fp9"], "unknown number format 'fp9'"),
        (["--token-budgets", "many"], "whole numbers"),
        (["--price", "h100-sxm=cheap"], "NAME=DOLLARS"),
        (["--router", "rnd"], "not an allowed value"),
        (["--json", "/no/such/folder/out.json"], "folder does not exist"),
        (["--settings", "no-such-file.yaml"], "cannot read the file"),
        (["--top", "-1"], "0 or more"),
    ],
)
def test_bad_flags(arguments: list[str], says: str) -> None:
    refused(["plan", *arguments], says)


def test_mistakes_in_several_flags_are_reported_together() -> None:
    flags = ["--model", "lama-3.1-8b", "--slo", "ttfx_p99<2s", "--accelerator", "h1000,l40s", "--max-gpus", "0"]
    said = refused(["plan", *flags], "--model", "--slo", "--accelerator", "--max-gpus")
    assert len(said.splitlines()) == 4


def test_a_settings_file_is_checked_with_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "question.yaml"
    file.write_text("model: lama-3.1-8b\nmax-gpu: 3\nslo: ttft_p99<2s\n")
    refused(["plan", "--settings", str(file), "--rate", "-2"], "question.yaml: model", "max_gpus", "--rate")


@pytest.mark.parametrize("command", ["simulate", "explain"])
def test_a_deployment_names_its_flags(command: str) -> None:
    refused([command], "--model: is missing", "--accelerator: is missing")
    refused([command, "--model", "lama", "--accelerator", "h10"], "--model: unknown model", "--accelerator: unknown")
    refused([command, "--model", "llama-3.1-8b", "--accelerator", "l40s", "--tp", "3"], "--tp", "must divide")
    refused([command, "--model", "llama-3.1-8b", "--accelerator", "l40s", "--tp", "-1"], "--tp")
    refused([command, "--model", "llama-3.1-8b", "--accelerator", "l40s", "--weights", "fp9"], "--weights")


def test_a_bad_deployment_file_names_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text("model: llama-3.1-8b\naccelerator: l40s\nplan: {tensor_paralel: 2}\nengine: {extends: vlm}\n")
    refused(["simulate", "--deployment", str(file)], "did you mean 'tensor_parallel'?", "did you mean 'vllm'?")


def test_tables_of_unknown_kind(tmp_path: Path) -> None:
    arguments = ["simulate", "--model", "llama-3.1-8b", "--accelerator", "l40s", "--requests", str(tmp_path / "r.xls")]
    refused(arguments, "unknown format of a table", ".parquet, .csv, .jsonl")


def test_explain_needs_something_to_compute() -> None:
    deployed = ["explain", "--model", "llama-3.1-8b", "--accelerator", "l40s"]
    refused([*deployed, "--decode", "0"], "leaves nothing to compute")
    refused([*deployed, "--decode", "4", "--workload", "azure-code"], "cannot be combined with a workload")


def test_nothing_is_written_when_input_is_bad(tmp_path: Path) -> None:
    refused(plan("--rate", "-1", "--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")))
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64}))
    refused(["plan", "--model", str(tmp_path / "config.json")], "config.json")
