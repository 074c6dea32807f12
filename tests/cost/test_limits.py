"""No price beats the speed of light, and no step beats a deployment's bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.limits import bounds
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.plan import PlanSpec

CASES = {
    "dense": deployment("llama-3.1-8b", "h100-sxm"),
    "stages": deployment("llama-3.1-70b", "h100-sxm", plan=PlanSpec(tensor_parallel=4, pipeline_parallel=4)),
    "experts": deployment("mixtral-8x7b", "a100-80g-sxm", plan=PlanSpec(tensor_parallel=4, expert_parallel=4)),
    "latent": deployment("deepseek-v3", "h200-sxm", plan=PlanSpec(tensor_parallel=8, weight_dtype="fp8")),
    "windowed": deployment("gemma-2-9b", "l40s", plan=PlanSpec(tensor_parallel=2)),
    "no overheads": deployment("llama-3.1-8b", "h100-sxm", engine="ideal"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@settings(max_examples=30, deadline=None)
@given(requests=st.integers(1, 256), context=st.integers(1, 8000), prompt=st.integers(1, 2000))
def test_steps_stay_above_the_bounds(case: DeploymentSpec, requests: int, context: int, prompt: int) -> None:
    window = case.model.window_tokens
    found = bounds(case, prompt, 100)
    decode = price_step(case, decode_batch(requests, context, window))
    prefill = price_step(case, prefill_batch([(0, prompt)], window))
    assert decode.total_s >= found.tpot_s
    assert prefill.total_s >= found.ttft_s(prompt)
    for row in (*decode.operators, *prefill.operators):
        assert row.limit_s <= row.seconds * (1 + 1e-12), row.operator.name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_best_steady_batch_stays_below_the_rate(case: DeploymentSpec) -> None:
    prompt, output = 1000, 200
    best = 0.0
    for requests in (1, 8, 64, case.engine.max_num_seqs):
        decode = price_step(case, decode_batch(requests, prompt + output // 2, case.model.window_tokens))
        prefill = price_step(case, prefill_batch([(0, prompt)], case.model.window_tokens))
        busy = max(prefill.stage_s) + output * max(decode.stage_s) / requests
        best = max(best, 1.0 / busy)
    assert 0 < best <= bounds(case, prompt, output).request_rate_per_s


def test_bounds_loosen_with_cached_prompts_and_replicas() -> None:
    case = CASES["dense"]
    plain = bounds(case, 4000, 10)
    assert bounds(case, 4000, 10, cached_share=0.5).request_rate_per_s > plain.request_rate_per_s
    twice = case.model_copy(update={"plan": PlanSpec(replicas=2)})
    assert bounds(twice, 4000, 10).request_rate_per_s == pytest.approx(2 * plain.request_rate_per_s)
    assert plain.ttft_s(4000, cached_tokens=3900) < plain.ttft_s(4000)


def test_one_token_of_an_8b_model_reads_its_weights_once() -> None:
    # 8.03e9 parameters less the embedding table of 128,256 x 4,096, two bytes each, at 3.35 TB/s.
    floor_s = (8.03e9 - 128256 * 4096) * 2 / 3.35e12
    assert bounds(CASES["no overheads"], 100, 10).tpot_s == pytest.approx(floor_s, rel=0.01)
