"""Compiled and plain-Python runs of the same source give the same bits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import KINDS, random_case
from helpers import shared_file
from scenarios import digest, random_run
from windtunnel.serving.case import case_lines, load_case, run_case

TESTS = Path(__file__).parents[1]

REPLAY = """
import sys
from pathlib import Path
from windtunnel.serving.case import case_lines, load_case, run_case
for path in sys.argv[1:]:
    case = load_case(Path(path))
    Path(path + ".lines").write_text("\\n".join(case_lines(case, run_case(case))))
"""


def plain_python() -> dict[str, str]:
    return os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(TESTS)}


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(TESTS / "scenarios.py")]
    with subprocess.Popen(
        command, env=plain_python(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@settings(max_examples=150)
@given(st.integers(0, 10**9))
def test_random_runs_are_identical_to_the_bit(uncompiled: subprocess.Popen[str], seed: int) -> None:
    assert uncompiled.stdin is not None
    assert uncompiled.stdout is not None
    uncompiled.stdin.write(f"{seed}\n")
    uncompiled.stdin.flush()
    assert uncompiled.stdout.readline().strip() == digest(random_run(seed))


def test_cases_are_identical_to_the_bit(tmp_path: Path) -> None:
    draw = random.Random(3)
    paths = []
    for i in range(3 * len(KINDS)):
        path = tmp_path / f"{i:02d}-{KINDS[i % len(KINDS)]}.json"
        path.write_text(json.dumps(random_case(draw, KINDS[i % len(KINDS)])))
        paths.append(path)
    subprocess.run([sys.executable, "-c", REPLAY, *map(str, paths)], env=plain_python(), check=True)
    for path in paths:
        case = load_case(path)
        lines = "\n".join(case_lines(case, run_case(case)))
        assert lines == Path(f"{path}.lines").read_text(), path.name


@pytest.mark.slow
def test_every_recorded_case_is_identical_to_the_bit(tmp_path: Path) -> None:
    paths = []
    for source in sorted(shared_file("oracle", "cases").glob("*.json")):
        paths.append(tmp_path / source.name)
        paths[-1].write_bytes(source.read_bytes())
    subprocess.run([sys.executable, "-c", REPLAY, *map(str, paths)], env=plain_python(), check=True)
    for path in paths:
        case = load_case(path)
        lines = "\n".join(case_lines(case, run_case(case)))
        assert lines == Path(f"{path}.lines").read_text(), path.name
