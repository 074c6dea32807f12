"""Bad cases are refused with everything that is wrong with them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from cases import random_case
from windtunnel.errors import CaseError
from windtunnel.serving.case import load_case
from windtunnel.serving.case_diff import read_lines


def good() -> dict[str, Any]:
    case = random_case(random.Random(1), "plain")
    case["requests"] = [{"arrival": 0.0, "prompt": 5, "output": 3}, {"arrival": 0.1, "prompt": 6, "output": 2}]
    return case | {"block_size": 4, "num_blocks": 20, "max_num_seqs": 2, "max_num_batched_tokens": 8}


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "case.json"
    path.write_text(text)
    with pytest.raises(CaseError) as caught:
        load_case(path)
    assert all("case.json" in str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_size": 0}, ["block_size", "at least 1"]),
        ({"block_size": "16"}, ["block_size", "whole number"]),
        ({"num_blocks": 1}, ["num_blocks", "never usable"]),
        ({"num_blocks": -4}, ["num_blocks", "negative"]),
        ({"max_num_batched_tokens": 1}, ["max_num_seqs (2)"]),
        ({"enable_chunked_prefill": False, "max_model_len": 100}, ["without chunked prefill"]),
        ({"policy": "fifo"}, ["policy", "fcfs, priority"]),
        ({"watermark": 1.0}, ["watermark"]),
        ({"long_prefill_token_threshold": 10**6}, ["long_prefill_token_threshold"]),
        ({"max_model_length": 3}, ["max_model_length", "did you mean 'max_model_len'"]),
        ({"cost": {"base": -1.0, "per_token": 0.0}}, ["cost.base", "negative"]),
        ({"requests": {}}, ["requests", "list"]),
        ({"requests": [{"arrival": 0.0, "prompt": 0, "output": 1}]}, ["requests[0].prompt", "at least 1"]),
        ({"requests": [{"arrival": float("nan"), "prompt": 1, "output": 1}]}, ["requests[0].arrival", "finite"]),
        ({"requests": [{"arrival": 0.0, "prompt": True, "output": 1}]}, ["requests[0].prompt", "whole number"]),
        ({"requests": [{"arrival": 0.0, "prompt": 10**4, "output": 1}]}, ["leaves no room"]),
        ({"num_blocks": 3, "requests": [{"arrival": 0.0, "prompt": 9, "output": 1}]}, ["needs 3 KV blocks", "are 2"]),
    ],
)
def test_one_mistake(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    text = "\n".join(problems(tmp_path, json.dumps(good() | changes)))
    assert all(word in text for word in words), text


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    case = good() | {"block_size": -1, "policy": 3}
    del case["max_num_seqs"]
    case["requests"][1]["prompt"] = -6
    found = problems(tmp_path, json.dumps(case))
    assert len(found) == 4


def test_text_that_is_not_json_names_its_line(tmp_path: Path) -> None:
    assert "line 2" in problems(tmp_path, '{"block_size": 16,\n "num_blocks": ')[0]
    assert "JSON object" in problems(tmp_path, "[1, 2]")[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="cannot be read"):
        load_case(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CaseError, match="not a text file"):
        load_case(tmp_path / "bytes.json")
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    with pytest.raises(CaseError, match=r"bad\.gz"):
        read_lines(tmp_path / "bad.gz")
    (tmp_path / "bad.jsonl").write_text('{"step": 0}\n{"step": ')
    with pytest.raises(CaseError, match="line 2"):
        read_lines(tmp_path / "bad.jsonl")


def test_a_good_case_loads_in_order_of_arrival(tmp_path: Path) -> None:
    case = good()
    case["requests"].reverse()
    (tmp_path / "case.json").write_text(json.dumps(case))
    loaded = load_case(tmp_path / "case.json")
    assert loaded.place == (1, 0)
    assert loaded.workload.prompt_tokens.tolist() == [5, 6]
