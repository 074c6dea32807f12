"""Asynchronous scheduling, speculative tokens and LoRA adapters, step by step against the real vLLM's scheduler (0.32).

The recorded cases were made by `ahead_cases.py` and completed by `vllm_oracle.py`. With
WINDTUNNEL_VLLM_PYTHON set to an interpreter that has vLLM 0.32 for the CPU, fresh random cases are
compared too.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import KINDS, random_case
from windtunnel.errors import CaseError, SpecError
from windtunnel.serving.case import Case, case_lines, case_records, load_case, run_case
from windtunnel.serving.case_diff import first_difference, read_lines
from windtunnel.serving.drafting import Drafting
from windtunnel.serving.kernel import kernel
from windtunnel.serving.run import run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from ahead_cases import MAKERS, write_cases  # noqa: E402

RECORDED = sorted(path.relative_to(HERE).as_posix() for path in HERE.glob("cases_*/*.json"))


def difference(path: Path) -> object:
    case = load_case(path)
    return first_difference(case_records(case, run_case(case)), read_lines(path.with_suffix(".expected.jsonl")))


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_step_is_identical(name: str) -> None:
    found = difference(HERE / name)
    assert found is None, str(found)


def test_there_are_recorded_cases_of_every_sort() -> None:
    assert len(RECORDED) == 50
    lines = [
        line for name in RECORDED for line in (HERE / name).with_suffix(".expected.jsonl").read_text().splitlines()
    ]
    assert sum('"preempted":[' in line and '"preempted":[]' not in line for line in lines) > 20


@pytest.mark.slow
@pytest.mark.parametrize("which", sorted(MAKERS))
def test_fresh_random_cases_against_the_real_scheduler(which: str, tmp_path: Path) -> None:
    interpreter = os.environ.get("WINDTUNNEL_VLLM_PYTHON")
    if not interpreter:
        pytest.skip("WINDTUNNEL_VLLM_PYTHON names no interpreter that has vLLM 0.32")
    write_cases(tmp_path, which, 10 * len(KINDS), os.environ.get("WINDTUNNEL_SEED", "7"))
    subprocess.run([interpreter, str(HERE / "vllm_oracle.py"), str(tmp_path)], check=True, capture_output=True)
    for path in sorted(tmp_path.glob("*.json")):
        found = difference(path)
        assert found is None, f"{path.name}: {found}"


def plain(case: Case) -> str:
    """The case's lines from the loop as plain Python."""
    names = [str(place) for place in case.place]
    rank = [sorted(names).index(name) for name in names]
    result = run(
        case.workload, case.surface, case.settings, record_steps=True, output_unit=True, compiled=False,
        tie_order=np.array(rank),
    )  # fmt: skip
    return "\n".join(case_lines(case, result))


@pytest.mark.parametrize("which", sorted(MAKERS))
def test_compiled_and_plain_runs_are_identical_to_the_bit(which: str, tmp_path: Path) -> None:
    write_cases(tmp_path, which, 2 * len(KINDS), "bits")
    for path in sorted(tmp_path.glob("*.json")):
        case = load_case(path)
        assert "\n".join(case_lines(case, run_case(case))) == plain(case), path.name


def test_a_plain_case_gains_nothing_from_counting_every_request(tmp_path: Path) -> None:
    """Without drafts, one step at a time, both loops of the scheduler do the same."""
    draw = random.Random(11)
    loop = kernel(ahead=True)
    assert loop.run_loop is not kernel().run_loop
    for number in range(3 * len(KINDS)):
        path = tmp_path / "case.json"
        path.write_text(json.dumps(random_case(draw, KINDS[number % len(KINDS)])))
        case = load_case(path)
        usual = list(case_records(case, run_case(case)))
        # Drafts of which none is ever proposed: the same decisions through the other loop.
        drafting = no_drafts(len(case.workload))
        try:
            other = replace(case, settings=replace(case.settings, drafting=drafting))
        except SpecError:  # the budget or the threshold leaves no room for one draft token
            continue
        if len(usual) < 2 or not roomy(other):
            continue
        assert first_difference(case_records(other, run_case(other)), usual) is None


def no_drafts(rows: int) -> Drafting:
    return Drafting(tokens=1, by_batch=(0,), outcomes=(((0, 0),),) * rows)


def roomy(case: Case) -> bool:
    """Whether every request also fits with the blocks that drafts might take."""
    total = case.workload.prompt_tokens + case.workload.output_tokens
    most = int(total.max()) + case.settings.spare_tokens
    return -(-min(most, case.settings.max_model_len) // case.settings.block_size) < case.settings.num_blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": 3}, "must be an object"),
        ({"spec": {"method": "oracle", "num_tokens": 2}}, "not a known method"),
        ({"spec": {"method": "ngram", "num_tokens": 0}}, "from 1 to"),
        ({"spec": {"method": "ngram", "num_tokens": True}}, "from 1 to"),
        ({"spec": {"method": "ngram", "num_tokens": 2, "parallel": True}}, "for drafters with a model"),
        ({"spec": {"method": "ngram", "num_token": 2}}, "not a known field"),
        ({"spec": {"method": "eagle", "num_tokens": 2, "per_batch_size": [[2, 4, 1]]}}, "in order"),
        ({"spec": {"method": "eagle", "num_tokens": 2, "per_batch_size": [[1, 4, 3]]}}, "in order"),
        ({"spec": {"method": "draft_model", "num_tokens": 64}}, "with its drafts"),
        ({"async_scheduling": 1}, "true or false"),
        ({"max_loras": 0}, "at least 1"),
        ({"async_scheduling": True, "max_loras": 2}, "synchronous steps"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = json.loads((HERE / RECORDED[0]).read_text()) | {"max_num_batched_tokens": 32, "max_num_seqs": 2}
    path = tmp_path / "case.json"
    path.write_text(json.dumps(data | change))
    with pytest.raises(CaseError, match=message):
        load_case(path)


def test_outcomes_of_drafts_are_checked(tmp_path: Path) -> None:
    data = json.loads((HERE / RECORDED[-1]).read_text())
    data["requests"][0]["accepted"] = [1, -1]
    path = tmp_path / "case.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CaseError, match=r"requests\[0\].accepted"):
        load_case(path)
