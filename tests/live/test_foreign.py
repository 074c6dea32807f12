"""Each file below has the shape that the tool writes, with made-up figures: due at 10 s, tokens at 10.5, 10.6, 10.8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windtunnel.errors import TraceError
from windtunnel.live.foreign import read_measurement

NS = 1_000_000_000

VLLM = {
    "completed": 2, "request_throughput": 1.0, "start_times": [10.0, 11.0, 12.0], "ttfts": [0.5, 0.25, 0.0],
    "itls": [[0.1, 0.2], [], []], "input_lens": [7, 9, 4], "output_lens": [3, 1, 0],
    "errors": ["", "", "Traceback\nServerDisconnectedError"],
}  # fmt: skip
GUIDELLM = {
    "benchmarks": [{"requests": {
        "successful": [{
            "prompt_tokens": 7, "output_tokens": 3,
            "info": {"timings": {
                "targeted_start": 10.0, "request_start": 10.01,
                "first_token_iteration": 10.5, "last_token_iteration": 10.8,
            }},
        }],
        "errored": [{"prompt_tokens": 4, "info": {"timings": {"request_start": 12.0}}}], "incomplete": [],
    }}],
}  # fmt: skip
AIPERF = [
    {
        "metadata": {"request_start_ns": 10 * NS, "request_end_ns": 11 * NS, "benchmark_phase": "profiling"},
        "metrics": {
            "time_to_first_token": {"value": 500.0, "unit": "ms"},
            "inter_chunk_latency": {"value": [100.0, 200.0], "unit": "ms"},
            "input_sequence_length": {"value": 7, "unit": "tokens"},
            "output_sequence_length": {"value": 3, "unit": "tokens"},
        },
        "error": None,
    },
    {"metadata": {"request_start_ns": 1 * NS, "benchmark_phase": "warmup"}, "metrics": {}, "error": None},
    {"metadata": {"request_start_ns": 12 * NS}, "metrics": {}, "error": {"code": 429, "type": "Busy"}},
]
GENAI_PERF = {
    "experiments": [{"requests": [{
        "timestamp": 10 * NS, "response_timestamps": [int(10.5 * NS), int(10.6 * NS), int(10.8 * NS), int(10.9 * NS)],
        "response_outputs": [{"response": "a"}, {"response": "b"}, {"response": "c"}, {"response": "data: [DONE]"}],
    }]}],
}  # fmt: skip
INFERENCE_PERF = [
    {
        "start_time": 10.0, "end_time": 10.9, "error": None,
        "info": {"input_tokens": 7, "output_tokens": 3, "output_token_times": [10.5, 10.6, 10.8]},
    },
    {"start_time": 12.0, "end_time": 12.1, "info": {"input_tokens": 4}, "error": {"error_type": "TimeoutError"}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "tool", "gaps_s", "failure"),
    [
        (VLLM, "vllm bench serve", [0.1, 0.2], "ServerDisconnectedError"),
        (GUIDELLM, "GuideLLM", [0.3], "errored"),
        (AIPERF, "AIPerf", [0.1, 0.2], "http 429"),
        (GENAI_PERF, "GenAI-Perf", [0.1, 0.2], None),
        (INFERENCE_PERF, "inference-perf", [0.1, 0.2], "TimeoutError"),
    ],
)
def test_results_of_other_tools(tmp_path: Path, data: Any, tool: str, gaps_s: list[float], failure: str | None) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data))
    measured = read_measurement(path)
    assert measured.meta["tool"] == tool
    assert measured.due_s[0] == 0.0
    assert measured.ttft_s[0] == pytest.approx(0.5)
    assert measured.e2e_s[0] == pytest.approx(0.8)
    assert measured.tpot_s[0] == pytest.approx(0.15)
    assert measured.output_received[0] == 3
    tokens = measured.token_s[: measured.token_offset[1]]
    np.testing.assert_allclose(np.diff(tokens), gaps_s)
    if failure is not None:
        assert measured.status[-1] == failure
        assert measured.due_s[-1] == pytest.approx(2.0)
        assert np.isnan(measured.e2e_s[-1])


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "profile_export.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in AIPERF))
    assert read_measurement(path).status == ("ok", "http 429")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "neither JSON nor JSON lines"),
        ('{"a": 1}', "no known result"),
        (json.dumps({k: v for k, v in VLLM.items() if k != "itls"}), "--save-detailed"),
        (json.dumps({"benchmarks": []}), "no single requests"),
        (json.dumps({"benchmarks": [{}]}), "looks like a result of GuideLLM"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=message):
        read_measurement(path)
