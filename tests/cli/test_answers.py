"""Commands that answer: exit codes, JSON, files, and the same answer from flags and from a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windtunnel.cli.main import app

run = CliRunner()
WORKLOAD = """
requests: 60
arrivals: {kind: poisson, rate_per_s: 4}
prompt: {kind: fixed, tokens: 300}
output: {kind: fixed, tokens: 40}
"""
DEPLOYED = ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--accelerator", "l40s"]


@pytest.fixture
def workload(tmp_path: Path) -> str:
    path = tmp_path / "traffic.yaml"
    path.write_text(WORKLOAD)
    return str(path)


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"JSON holds {name}"))


def plan(workload: str, *more: str) -> list[str]:
    return ["plan", *DEPLOYED, "--max-gpus", "2", "--precisions", "bf16", "--workload", workload, *more]


def test_plan_names_a_pick_and_writes_everything(workload: str, tmp_path: Path) -> None:
    paths = ["--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")]
    done = run.invoke(app, plan(workload, "--slo", "ttft_p99<5s,tpot_p99<80ms", *paths))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Deploy meta-llama/Llama-3.1-8B-Instruct on ")
    assert "vllm serve meta-llama/Llama-3.1-8B-Instruct" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    answer = strict_json((tmp_path / "out.json").read_text())
    assert answer["format"] == "windtunnel-plan-1"
    assert answer["pick"]["outcome"] == "meets"
    assert answer["closest"] is None
    assert answer["pick"]["label"] == answer["candidates"][0]["label"]
    assert answer["question"]["slo"]["targets"][1]["limit_s"] == 0.08
    assert (tmp_path / "out.html").stat().st_size > 1e6
    assert {p.name for p in tmp_path.iterdir()} == {"traffic.yaml", "out.json", "out.html"}


def test_plan_says_no_with_code_one(workload: str) -> None:
    done = run.invoke(app, plan(workload, "--slo", "tpot_p50<12ms,e2e_p50<100ms"))
    assert done.exit_code == 1
    assert done.stdout.startswith("Nothing meets the targets")


def test_json_to_standard_output_is_alone(workload: str) -> None:
    done = run.invoke(app, plan(workload, "--json", "-"))
    assert done.exit_code == 0
    assert strict_json(done.stdout)["pick"] is not None


def test_flags_and_settings_give_the_same(workload: str, tmp_path: Path) -> None:
    settings = tmp_path / "question.yaml"
    settings.write_text(
        "model: meta-llama/Llama-3.1-8B-Instruct\naccelerator: [l40s]\nmax_gpus: 2\nprecisions: [bf16]\n"
        f"workload: {{{', '.join(WORKLOAD.strip().splitlines())}}}\nslo: {{targets: [{{metric: ttft, limit_s: 2}}]}}\n"
        "price: {l40s: 1.5}\n"
    )
    by_file = run.invoke(app, ["plan", "--settings", str(settings), "--json", "-"])
    by_flags = run.invoke(app, plan(workload, "--slo", "ttft_p99<2s", "--price", "l40s=1.5", "--json", "-"))
    assert by_file.exit_code == 0, by_file.output
    answers = [strict_json(done.stdout) for done in (by_file, by_flags)]
    assert answers[0]["candidates"] == answers[1]["candidates"]
    assert answers[0]["pick"]["usd_per_h"] == 1.5 * answers[0]["pick"]["accelerators"]


def test_simulate_writes_tables(workload: str, tmp_path: Path) -> None:
    import polars

    files = [str(tmp_path / name) for name in ("r.parquet", "s.csv", "out.html")]
    arguments = ["simulate", *DEPLOYED, "--replicas", "2", "--workload", workload, "--json", "-"]
    done = run.invoke(app, [*arguments, "--requests", files[0], "--steps", files[1], "--html", files[2]])
    assert done.exit_code == 0, done.output
    answer = strict_json(done.stdout)
    assert answer["metrics"]["finished"] == 60
    assert answer["meets"] is None
    requests, steps = polars.read_parquet(files[0]), polars.read_csv(files[1])
    assert len(requests) == 60
    assert requests["output_tokens"].sum() == 60 * 40
    assert steps["tokens"].sum() >= 60 * (300 + 39)
    assert Path(files[2]).exists()


def test_simulate_holds_targets_against_the_run(workload: str) -> None:
    arguments = ["simulate", *DEPLOYED, "--workload", workload, "--limit", "20"]
    assert run.invoke(app, [*arguments, "--slo", "ttft_p99<5s"]).exit_code == 0
    done = run.invoke(app, [*arguments, "--slo", "tpot_p99<1ms"])
    assert done.exit_code == 1
    assert "Missed: TPOT p99 < 1 ms" in done.stdout
    assert "the first 20 of 60 requests are used" in done.stdout.replace("\n    ", " ")


def test_a_deployment_that_does_not_fit_shows_the_sum(workload: str) -> None:
    big = ["--model", "meta-llama/Llama-3.1-70B", "--accelerator", "h100-sxm"]
    done = run.invoke(app, ["simulate", *big, "--workload", workload])
    assert done.exit_code == 1
    assert "does not fit: weights" in done.stderr
    assert "per accelerator" in done.stderr


def test_a_deployment_file_and_flags_give_the_same(workload: str, tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(
        "model: meta-llama/Llama-3.1-8B-Instruct\naccelerator: l40s\nplan: {replicas: 2, weight_dtype: fp8}\n"
        "engine: {extends: vllm, max_num_seqs: 128}\n"
    )
    tail = ["--workload", workload, "--json", "-"]
    by_file = run.invoke(app, ["simulate", "--deployment", str(file), *tail])
    flags = ["--replicas", "2", "--weights", "fp8", "--max-num-seqs", "128"]
    by_flags = run.invoke(app, ["simulate", *DEPLOYED, *flags, *tail])
    assert by_file.exit_code == 0, by_file.output
    assert strict_json(by_file.stdout) == strict_json(by_flags.stdout)
    over = run.invoke(app, ["simulate", "--deployment", str(file), "--replicas", "1", *tail])
    assert strict_json(over.stdout)["deployment"]["plan"]["replicas"] == 1


@pytest.mark.parametrize(
    "batch",
    [
        ["--decode", "64", "--context", "1200"],
        ["--prefill", "2048"],
        ["--prefill", "512", "--prefill-start", "512", "--decode", "8"],
    ],
)
def test_explain_adds_up(batch: list[str]) -> None:
    done = run.invoke(app, ["explain", *DEPLOYED, *batch, "--json", "-"])
    assert done.exit_code == 0, done.output
    step = strict_json(done.stdout)
    assert sum(row["seconds"] for row in step["operators"]) == pytest.approx(step["seconds"], rel=1e-9)
    assert sum(row["share"] for row in step["operators"]) == pytest.approx(1.0)
    assert 0 < step["limit_s"] < step["seconds"]
    need = step["memory"]
    assert need["taken_bytes"] + need["kv_bytes"] == pytest.approx(need["budget_bytes"])
    text = run.invoke(app, ["explain", *DEPLOYED, *batch])
    assert max(map(len, text.stdout.splitlines())) <= 80


def test_explain_of_a_workloads_mean_step(workload: str) -> None:
    done = run.invoke(app, ["explain", *DEPLOYED, "--workload", workload, "--json", "-"])
    assert done.exit_code == 0, done.output
    assert strict_json(done.stdout)["batch"]["decode_requests"] >= 1


def script(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from windtunnel.cli.main import main; main()", *arguments]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from windtunnel.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'numba', 'polars', 'plotly', 'pydantic', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("[]")
    assert "plan" in done.stdout


def test_unknown_options_are_usage_errors() -> None:
    done = subprocess.run(script("plan", "--max-gpu", "3"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--max-gpus" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_of_our_own_keeps_its_traceback_and_is_no_answer() -> None:
    code = (
        "import windtunnel.report.catalogue as c\n"
        "def broken(): raise RuntimeError('broken on purpose')\n"
        "c.kinds_text = broken\n"
        "from windtunnel.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "catalogue"], capture_output=True, text=True)
    assert done.returncode == 70
    assert "broken on purpose" in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        f"{' '.join(map(repr, script('catalogue', 'models')))} | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_an_interruption_before_the_answer_writes_nothing(
    workload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("windtunnel.search.plan.search_plans", stop)
    done = run.invoke(app, plan(workload, "--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")))
    assert done.exit_code == 130
    assert done.stderr == "interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["traffic.yaml"]


@pytest.mark.slow
def test_an_interrupted_search_leaves_no_half_written_file(tmp_path: Path) -> None:
    many = [
        "--model",
        "meta-llama/Llama-3.1-70B",
        "--accelerator",
        "a100-80g-sxm,h100-sxm,h200-sxm",
        "--max-gpus",
        "32",
    ]
    arguments = script("plan", *many, "--json", str(tmp_path / "out.json"))
    search = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    search.send_signal(signal.SIGINT)
    _, errors = search.communicate(timeout=60)
    if search.returncode == 0:
        pytest.skip("the search was done before it could be interrupted")
    assert search.returncode == 130
    assert "Traceback" not in errors
    for path in tmp_path.iterdir():
        assert path.name == "out.json"
        assert strict_json(path.read_text())["interrupted"] is True
