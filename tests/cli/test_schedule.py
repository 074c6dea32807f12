from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from windtunnel.cli.main import app

run = CliRunner()


def case(tmp_path: Path, **changes: Any) -> str:
    data: dict[str, Any] = {
        "block_size": 16,
        "num_blocks": 64,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "max_model_len": 256,
        "cost": {"base": 0.01, "per_token": 1e-5, "per_kv_token": 0.0},
        "requests": [{"arrival": 0.0, "prompt": 100, "output": 3}, {"arrival": 0.005, "prompt": 20, "output": 2}],
        **changes,
    }
    path = tmp_path / "case.json"
    path.write_text(json.dumps(data))
    return str(path)


def test_every_step_is_one_line(tmp_path: Path) -> None:
    done = run.invoke(app, ["schedule", case(tmp_path)])
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["scheduled"] == {"0": 64}
    assert [r["preemptions"] for r in lines[-1]["requests"]] == [0, 0]


def test_lines_go_to_a_file(tmp_path: Path) -> None:
    done = run.invoke(app, ["schedule", case(tmp_path), "--json", str(tmp_path / "out.jsonl")])
    assert done.exit_code == 0
    assert done.stdout == ""
    assert (tmp_path / "out.jsonl").read_text() == run.invoke(app, ["schedule", case(tmp_path)]).stdout


def test_diff_answers_yes_or_no(tmp_path: Path) -> None:
    lines = run.invoke(app, ["schedule", case(tmp_path)]).stdout
    expected = tmp_path / "expected.jsonl.gz"
    expected.write_bytes(gzip.compress(lines.encode()))
    done = run.invoke(app, ["schedule", case(tmp_path), "--diff", str(expected)])
    assert done.exit_code == 0
    assert "identical" in done.stdout
    done = run.invoke(app, ["schedule", case(tmp_path, max_num_batched_tokens=50), "--diff", str(expected)])
    assert done.exit_code == 1
    assert "difference in line 1 " in done.stdout


def test_bad_cases_are_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text('{"block_size": 16, "num_')
    for arguments in ([str(cut)], [str(tmp_path / "none.json")], [case(tmp_path, block_size=-1)]):
        done = run.invoke(app, ["schedule", *arguments])
        assert done.exit_code == 2
        assert done.stderr.startswith("error: ")
        assert done.stdout == ""
    done = run.invoke(app, ["schedule", case(tmp_path), "--diff", str(cut)])
    assert done.exit_code == 2
    assert "line 1" in done.stderr
