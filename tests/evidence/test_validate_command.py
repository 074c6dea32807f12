"""`windtunnel validate` end to end: JSON, the page, bad input; and an error budget where the shared data is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import shared_file
from typer.testing import CliRunner

from windtunnel.cli.main import app

ROWS = [
    {
        "id": f"S{batch}", "source": "somebody's table", "model": "Llama 2 70B", "dtype_weights": "fp8",
        "dtype_kv": "fp8", "gpu": "H200-SXM-141GB", "n_gpus": "2", "tp": "2", "pp": "1", "engine": "TensorRT-LLM",
        "engine_version": "0.9.0", "mode": "static batch", "input_len": "128", "output_len": "128",
        "concurrency_or_batch": str(batch), "metric_name": "output_throughput", "metric_value": str(batch * 30),
        "unit": "tok/s", "tier": "A", "split": "check",
    }
    for batch in (16, 64)
]  # fmt: skip
SAMPLE = 40
"""Rows of the shared table that the budget is checked on."""


def table(tmp_path: Path, rows: list[dict[str, str]]) -> str:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["validate", *arguments])
    return done.exit_code, done.output


def test_json_and_page(tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    code, text = run(
        table(tmp_path, [*ROWS, ROWS[0] | {"id": "S3", "model": "GPT-9"}]), "--json", str(out), "--html", str(page)
    )
    assert code == 0, text
    answer = json.loads(out.read_text())
    assert (answer["rows"], answer["expressed"]) == (3, 2)
    assert [one["id"] for one in answer["not_expressed"]] == ["S3"]
    assert all(one["low"] <= one["predicted"] <= one["high"] for one in answer["results"])
    html = page.read_text()
    assert "S3" not in text or "GPT-9" in text
    assert "output_throughput" in html
    assert "src=" not in html.split("</head>")[0]


def test_tier_and_split_keep_rows(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code, _ = run(
        table(tmp_path, [ROWS[0], ROWS[1] | {"tier": "B"}]), "--tier", "A", "--split", "check", "--json", str(out)
    )
    assert code == 0
    assert json.loads(out.read_text())["rows"] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric_value": "480000"}, "factor of 1000"),
        ({"metric_value": "0.48"}, "factor of 1000"),
        ({"metric_value": "-480"}, "cannot be negative"),
        ({"id": "S64"}, "used twice"),
        ({"n_gpus": "1"}, "does not fit 1 devices"),
    ],
)
def test_bad_tables_end_with_code_2_and_say_why(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    code, text = run(table(tmp_path, [ROWS[0] | changed, ROWS[1]]))
    assert code == 2
    assert message in text


def test_no_such_file_and_flags_that_do_not_go_together(tmp_path: Path) -> None:
    assert run(str(tmp_path / "nothing.csv"))[0] == 2
    assert run(table(tmp_path, ROWS), "--kernels", str(tmp_path))[0] == 2
    assert run(str(tmp_path), "--tier", "A")[0] == 2


@pytest.mark.parametrize(
    ("file", "column", "budget"), [("serving.csv", "engine", 0.25), ("inferencex.csv", "backend", 0.4)]
)
def test_error_budget_on_published_rows(tmp_path: Path, file: str, column: str, budget: float) -> None:
    with shared_file("evidence", file).open(encoding="utf-8", newline="") as source:
        rows = [r for r in csv.DictReader(source) if r.get("tier", "A") == "A" and r["mode"] != "disagg"]
    every = max(1, len(rows) // SAMPLE)
    out = tmp_path / "out.json"
    code, text = run(table(tmp_path, rows[::every]), "--json", str(out))
    assert code == 0, text
    answer = json.loads(out.read_text())
    assert answer["expressed"] >= 0.85 * answer["rows"]
    assert answer["median_abs_error"] <= budget
    assert abs(answer["bias"]) <= 0.2
    assert np.isfinite(answer["coverage80"])
