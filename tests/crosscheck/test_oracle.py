"""Step by step against what the real engine's scheduler did (vLLM 0.32, v1)."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cases import KINDS, random_case
from helpers import shared_file
from windtunnel.serving.case import case_records, load_case, run_case
from windtunnel.serving.case_diff import first_difference, read_lines

RECORDED = [f"{number:02d}-{kind}" for number, kind in enumerate(3 * KINDS[:10])]

REPLAY_ALL = """
import glob, gzip, sys
sys.path.insert(0, sys.argv[1])
import vllm_schedule
vllm_schedule.main(sorted(glob.glob(sys.argv[2] + "/*.json")))
"""


def difference(case_file: Path, expected_file: Path) -> object:
    case = load_case(case_file)
    return first_difference(case_records(case, run_case(case)), read_lines(expected_file))


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_step_is_identical(name: str) -> None:
    folder = shared_file("oracle", "cases")
    found = difference(folder / f"{name}.json", folder / f"{name}.expected.jsonl.gz")
    assert found is None, str(found)


def test_a_changed_step_is_found_and_shown() -> None:
    folder = shared_file("oracle", "cases")
    expected = read_lines(folder / "01-tight.expected.jsonl.gz")
    changed: list[dict[str, Any]] = json.loads(json.dumps(expected))
    changed[40]["free_blocks"] += 1
    found = first_difference(expected, changed)
    assert found is not None
    assert found.line == 41
    assert [path for path, *_ in found.fields] == ["free_blocks"]
    assert "step 39" in str(found)
    assert "free blocks" in str(found)


@pytest.mark.slow
def test_fresh_random_cases_against_the_real_scheduler(tmp_path: Path) -> None:
    interpreter = os.environ.get("WINDTUNNEL_VLLM_PYTHON")
    if not interpreter:
        pytest.skip("WINDTUNNEL_VLLM_PYTHON names no interpreter that has vLLM 0.32")
    driver = shared_file("oracle", "vllm_schedule.py")
    draw = random.Random(os.environ.get("WINDTUNNEL_SEED", "7"))
    for i in range(20 * len(KINDS)):
        kind = KINDS[i % len(KINDS)]
        (tmp_path / f"{i:04d}-{kind}.json").write_text(json.dumps(random_case(draw, kind)))
    command = [interpreter, "-c", REPLAY_ALL, str(driver.parent), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for case_file in sorted(tmp_path.glob("*.json")):
        found = difference(case_file, case_file.with_name(case_file.stem + ".expected.jsonl.gz"))
        assert found is None, f"{case_file.name}: {found}"


def test_lines_that_end_early_differ(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"step": 0, "end": 1.0}\n')
    short = read_lines(path)
    found = first_difference([*short, {"step": 1, "end": 2.0}], short)
    assert found is not None
    assert found.expected is None
    assert "ended" in str(found)
