"""Static batches, batches in full swing and simulated set-ups: sums, conservation and limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.steps import eager_s, price_step
from windtunnel.evidence.batches import MICRO_TOKENS, micro_batch, static_batch, steady_batch
from windtunnel.evidence.outcomes import deployment_of, predict
from windtunnel.evidence.scenario import Scenario
from windtunnel.evidence.serving_run import requests_of
from windtunnel.evidence.steps import StepPricer, step_pricer
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

STATIC = Scenario(
    model="llama-2-13b",
    accelerator="a100-80g-sxm",
    engine="fastertransformer",
    plan=PlanSpec(tensor_parallel=2, weight_dtype="fp16", kv_dtype="fp16"),
    mode="static",
    input_tokens=128,
    output_tokens=32,
    batch=8,
)
CLOSED = Scenario(
    model="llama-3.1-8b",
    accelerator="h100-sxm",
    engine="vllm-server",
    plan=PlanSpec(),
    mode="closed",
    input_tokens=512,
    output_tokens=64,
    batch=8,
    requests=40,
    length_ratio=0.8,
)


def pricer_of(scenario: Scenario) -> StepPricer:
    return step_pricer(deployment_of(scenario), scenario.power_cap_w)


def test_a_static_batch_is_its_prefill_and_its_steps() -> None:
    values = static_batch(pricer_of(STATIC), 8, 128, 32)
    assert values["e2e_s"] == pytest.approx(values["ttft_s"] + 31 * values["decode_step_s"])
    assert values["output_tokens_per_s"] == pytest.approx(8 * 32 / values["e2e_s"])
    assert values["joules_per_output_token"] * 8 * 32 == pytest.approx(values["mean_w"] * values["e2e_s"])


def test_steps_agree_with_the_step_price() -> None:
    scenario = replace(STATIC, engine="vllm-large")
    pricer, deployment = pricer_of(scenario), deployment_of(scenario)
    assert pricer.decode(8, 500).seconds[0] == pytest.approx(price_step(deployment, decode_batch(8, 500)).total_s)
    chunk = price_step(deployment, prefill_batch([(0, 128)] * 8))
    # Kernels of a prompt are launched one by one, which the pricer holds against their own time.
    assert pricer.prefill(8, 128).seconds[0] >= chunk.total_s * 0.999


def test_more_output_takes_longer_and_larger_batches_are_faster_in_all() -> None:
    pricer = pricer_of(STATIC)
    assert static_batch(pricer, 8, 128, 64)["e2e_s"] > static_batch(pricer, 8, 128, 32)["e2e_s"]
    one, many = (static_batch(pricer, batch, 128, 32)["output_tokens_per_s"] for batch in (1, 32))
    assert many > one


def test_a_power_cap_never_speeds_up() -> None:
    free, capped = (static_batch(pricer_of(replace(STATIC, power_cap_w=w)), 32, 512, 8) for w in (0.0, 200.0))
    assert capped["e2e_s"] > free["e2e_s"]
    assert capped["mean_w_per_accelerator"] <= 200.0 * 1.01


@pytest.mark.parametrize(
    ("batch", "tokens", "stages", "size"), [(256, 128, 3, 8), (6, 20, 3, 2), (5, 4096, 2, 5), (8, 1, 2, 4)]
)
def test_micro_batches(batch: int, tokens: int, stages: int, size: int) -> None:
    assert micro_batch(batch, tokens, stages) == size
    assert size * tokens <= MICRO_TOKENS or size % 2


def test_pipeline_stages_share_a_large_batch() -> None:
    deep = replace(STATIC, plan=PlanSpec(pipeline_parallel=2, weight_dtype="fp16"), batch=64)
    flat = replace(STATIC, plan=PlanSpec(weight_dtype="fp16"), batch=64)
    deep_s, flat_s = (predict(one).values["ttft_s"] for one in (deep, flat))
    assert 0.5 * flat_s < deep_s < flat_s


def test_a_batch_in_full_swing_keeps_its_size() -> None:
    values = steady_batch(pricer_of(replace(STATIC, engine="vllm-large")), 16.5, 100, 400)
    assert values["output_tokens_per_s"] * values["tpot_mean_s"] == pytest.approx(16.5)
    assert values["itl_median_s"] <= values["tpot_mean_s"]


def test_prompts_beside_a_batch_cost_time_and_energy() -> None:
    pricer = pricer_of(replace(STATIC, engine="vllm-large"))
    alone, mixed = pricer.decode(16, 200), pricer.mixed(16, 200, 2.0, 300)
    assert alone.seconds[0] < mixed.seconds[0] < alone.seconds[0] + pricer.prefill(2, 300).seconds[0]
    assert mixed.joules[0] > alone.joules[0]
    short, long = (steady_batch(pricer, 64, tokens, 400)["joules_per_output_token"] for tokens in (50, 1000))
    assert long > short


def test_requests_of_a_closed_loop() -> None:
    table = requests_of(CLOSED, EngineSpec(name="one", frontend_s=0.01, frontend_token_s=1e-5))
    assert len(table) == 40
    assert table.prompt_tokens.min() >= int(0.8 * 512)
    assert table.prompt_tokens.max() <= 512
    assert (table.after[:8] == -1).all()
    assert (table.after[8:] == -2).all()
    # The first requests are turned into tokens one after the other, later ones as they come.
    np.testing.assert_allclose(table.arrival_s[:8], 1e-5 * np.cumsum(table.prompt_tokens[:8]))
    np.testing.assert_allclose(table.delay_s[8:], 0.01 + 1e-5 * table.prompt_tokens[8:])


def test_little_s_law_of_a_closed_loop() -> None:
    values = predict(CLOSED).values
    in_flight = values["requests_per_s"] * values["e2e_mean_s"]
    assert 6.0 < in_flight <= 8.05
    assert values["ttft_mean_s"] < values["e2e_mean_s"]


def test_a_set_up_that_does_not_fit_says_so() -> None:
    outcome = predict(replace(CLOSED, model="llama-3.1-405b"))
    assert not outcome.values
    assert "does not fit" in outcome.why_not


def test_a_step_without_a_graph_takes_at_least_its_launches() -> None:
    what = deployment_of(CLOSED)
    slow = what.engine.model_copy(update={"eager_launch_s": 1e-3, "graph_tokens": 256})
    slow_what = what.model_copy(update={"engine": slow})
    small, large = prefill_batch([(0, 200)]), prefill_batch([(0, 300)])
    assert price_step(slow_what, small).total_s < 0.1
    found = price_step(slow_what, large).total_s
    assert 0.2 < found < 0.5
    surface = step_surface(slow_what)
    assert float(surface.token_s[300]) == pytest.approx(found, rel=0.1)
    assert float(surface.token_s[200]) < 0.1


def test_unfused_experts_and_latent_attention_take_host_time_per_layer() -> None:
    engine = EngineSpec(name="one", eager_launch_s=1e-5, eager_latent_s=1e-3, eager_experts_s=2e-3,
                        unfused_experts=("hopper",))  # fmt: skip
    deepseek, llama = resolve("models", "deepseek-v3"), resolve("models", "llama-3.1-8b")
    assert eager_s(deepseek, engine, 100.0, "blackwell") == pytest.approx(1e-3 + 61e-3)
    assert eager_s(deepseek, engine, 100.0, "hopper") == pytest.approx(1e-3 + 61e-3 + 58 * 2e-3)
    assert eager_s(llama, engine, 100.0, "hopper") == pytest.approx(1e-3)
