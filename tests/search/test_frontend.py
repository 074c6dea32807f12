"""Requests pass the front end before the scheduler sees them."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.search.evaluate import evaluate
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.table import request_table


def test_prompts_are_turned_into_tokens_one_after_the_other() -> None:
    engine = resolve("engines", "vllm-large")
    slow = engine.model_copy(update={"frontend_s": 0.01, "frontend_token_s": 1e-4})
    prompts = np.full(4, 1000)
    table = request_table(np.zeros(4), prompts, np.full(4, 4))
    ttft = evaluate(deployment("llama-3.1-8b", "h100-sxm", engine=slow), table, SloSpec()).simulation.ttft_s
    # The last of four waits for the tokens of all: 0.4 s, and 10 ms that hold up nobody.
    assert ttft[0] == pytest.approx(0.11, abs=0.05)
    assert ttft[3] == pytest.approx(0.41, abs=0.05)
    apart = request_table(np.arange(4.0), prompts, np.full(4, 4))
    lone = evaluate(deployment("llama-3.1-8b", "h100-sxm", engine=slow), apart, SloSpec()).simulation.ttft_s
    np.testing.assert_allclose(lone, 0.11, atol=0.05)
