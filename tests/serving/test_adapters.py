"""LoRA adapters: who names which, how many run together, what loads, and that nothing is lost."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import replace

import numpy as np
import pytest

from scenarios import digest, random_workload, small_surface
from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.memory import memory_need
from windtunnel.cost.steps import price_step
from windtunnel.cost.surface import AdapterSurface
from windtunnel.errors import SpecError
from windtunnel.operators.batch import decode_batch
from windtunnel.operators.lora import adapted_matrices, adapter_values
from windtunnel.search.serve import serve
from windtunnel.serving.adapters.assignment import adapters_of, apart
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.lora import LoraSpec
from windtunnel.testing import run_violations
from windtunnel.workload.table import RequestTable, request_table

SETTINGS = SchedulerSettings(
    max_num_seqs=16, max_num_batched_tokens=64, max_model_len=400, num_blocks=200, block_size=4, over_length="truncate"
)
COST = AdapterSurface(
    token_s=np.where(np.arange(65) > 0, 1e-4 + 1e-6 * np.arange(65), 0.0),
    token_j=0.01 * np.arange(65),
    further_s=5e-5,
    further_j=0.02,
    load_s=2e-3,
)
SURFACE = replace(small_surface(), adapters=COST)


def simulated(workload: RequestTable, lora: LoraSpec | None, **changes: object) -> Simulation:
    options = {"replicas": 1, "record_steps": True} | {
        k: v for k, v in changes.items() if k in ("replicas", "compiled")
    }
    settings = replace(SETTINGS, lora=lora, **{k: v for k, v in changes.items() if k not in options})  # type: ignore[arg-type]
    return run(workload, SURFACE, settings, **options)  # type: ignore[arg-type]


def together(n: int, prompt: int = 20, output: int = 30) -> RequestTable:
    return request_table(np.zeros(n), np.full(n, prompt), np.full(n, output), tenant=np.arange(n))


def adapters_per_step(result: Simulation, adapters: np.ndarray) -> list[int]:
    steps = result.step_table
    assert steps is not None
    return [
        len({int(adapters[i]) for i in steps.entry_request[a:b] if adapters[i] >= 0})
        for a, b in zip(steps.entry_offset, steps.entry_offset[1:], strict=False)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_tokens_and_blocks_are_conserved_and_no_step_holds_too_many(seed: int) -> None:
    draw = random.Random(seed)
    workload = random_workload(draw, linked=draw.random() < 0.3, shared=draw.random() < 0.5)
    lora = LoraSpec(
        adapters=8, max_loras=draw.choice([1, 2, 8]), popularity=draw.choice(["uniform", "zipf"]), base_share=0.2
    )
    result = simulated(
        workload,
        lora,
        enable_prefix_caching=workload.shares_prefixes,
        num_blocks=draw.choice([60, 200]),
        policy=draw.choice(["fcfs", "priority"]),
    )
    assert list(run_violations(result)) == []
    counts = adapters_per_step(result, adapters_of(workload, lora))
    assert max(counts) <= lora.max_loras
    assert sum(counts) == result.adapter_steps.sum()


@pytest.mark.parametrize("seed", range(6))
def test_compiled_and_plain_runs_are_identical_to_the_bit(seed: int) -> None:
    draw = random.Random(1000 + seed)
    workload = random_workload(draw, linked=True, shared=True)
    lora = LoraSpec(adapters=4, max_loras=2, popularity="zipf")
    both = [simulated(workload, lora, enable_prefix_caching=True, compiled=c, num_blocks=80) for c in (True, False)]
    assert digest(both[0]) == digest(both[1])


def test_adapters_that_cost_nothing_and_all_fit_change_nothing() -> None:
    workload = random_workload(random.Random(5), linked=True, shared=False)
    free = AdapterSurface(np.zeros(65), np.zeros(65), 0.0, 0.0, 0.0)
    lora = LoraSpec(adapters=4, max_loras=4)
    with_them = run(workload, replace(SURFACE, adapters=free), replace(SETTINGS, lora=lora), record_steps=True)
    without = run(workload, small_surface(), SETTINGS, record_steps=True)
    for name in ("finish_s", "first_token_s", "scheduled_s", "preemptions"):
        np.testing.assert_array_equal(getattr(with_them, name), getattr(without, name))


def test_one_adapter_at_a_time_serves_them_one_after_the_other() -> None:
    workload = together(6)
    one = simulated(workload, LoraSpec(adapters=3, max_loras=1, popularity="tenant"))
    all_ = simulated(workload, LoraSpec(adapters=3, max_loras=3, popularity="tenant"))
    assert one.makespan_s > 2.0 * all_.makespan_s
    # The first adapter's two requests end before any other begins, and a skipped one keeps its place.
    order = np.argsort(one.scheduled_s, kind="stable").tolist()
    assert order == [0, 3, 1, 4, 2, 5]
    assert one.finish_s[[0, 3]].max() <= one.scheduled_s[[1, 2, 4, 5]].min()


def test_a_request_behind_skipped_ones_joins_the_adapter_that_runs() -> None:
    workload = request_table(
        [0.0, 0.001, 0.002], [20, 20, 20], [50, 5, 5], tenant=[0, 1, 0]
    )  # the second waits for its adapter's turn, the third does not
    result = simulated(workload, LoraSpec(adapters=2, max_loras=1, popularity="tenant"))
    assert result.finish_s[2] < result.finish_s[0] <= result.scheduled_s[1]


def test_every_adapter_is_copied_once_where_all_fit_and_again_when_it_was_displaced() -> None:
    workload = request_table(np.arange(6) * 1.0, np.full(6, 20), np.full(6, 5), tenant=[0, 1, 2, 0, 1, 2])
    roomy = simulated(workload, LoraSpec(adapters=3, max_loras=3, popularity="tenant"))
    tight = simulated(workload, LoraSpec(adapters=3, max_loras=2, popularity="tenant"))
    assert roomy.adapter_loads.sum() == 3
    assert tight.adapter_loads.sum() == 6  # least recently used: a cycle of three never hits two slots
    assert tight.stalled_s.sum() == pytest.approx(6 * COST.load_s)
    assert roomy.ttft_s[3] == pytest.approx(tight.ttft_s[3] - COST.load_s)


def test_popular_adapters_stay_on_the_device() -> None:
    n = 400
    workload = request_table(0.05 * np.arange(n), np.full(n, 20), np.full(n, 5))
    uniform = simulated(workload, LoraSpec(adapters=50, max_loras=8))
    zipf = simulated(workload, LoraSpec(adapters=50, max_loras=8, popularity="zipf", zipf_exponent=1.5))
    assert zipf.adapter_loads.sum() < 0.6 * uniform.adapter_loads.sum()


def test_equal_prompts_of_different_adapters_share_nothing() -> None:
    n = 4
    segments = (np.arange(n + 1), np.zeros(n), np.full(n, 40))
    workload = request_table(np.arange(n) * 0.5, np.full(n, 40), np.full(n, 3), segments=segments, tenant=[0, 1, 0, 1])
    lora = LoraSpec(adapters=2, max_loras=2, popularity="tenant")
    result = simulated(workload, lora, enable_prefix_caching=True)
    assert result.cached_tokens.tolist() == [0, 0, 36, 36]
    same = simulated(workload, LoraSpec(adapters=1), enable_prefix_caching=True)
    assert same.cached_tokens.tolist() == [0, 36, 36, 36]


def test_what_a_session_generated_is_still_known_to_its_next_turn() -> None:
    segments = (np.array([0, 1, 4]), np.array([7, 7, 100, 8]), np.array([20, 20, 10, 5]))
    workload = request_table([0.0, 1.0], [20, 35], [10, 5], segments=segments, output_id=[100, 101])
    moved = apart(workload, np.array([2, 2]))
    assert moved.segment_id[0] == moved.segment_id[1]
    assert moved.output_id[0] == moved.segment_id[2]


def deployment(lora: dict[str, object] | None, model: str = "llama-3.1-8b", **engine: object) -> DeploymentSpec:
    settings = {"extends": "vllm", "max_model_len": 4096, **engine} | ({"lora": lora} if lora else {})
    return load_deployment({"model": model, "accelerator": "h100-sxm", "engine": settings})


def test_the_cache_shrinks_by_the_slots_of_the_adapters() -> None:
    lora = {"adapters": 64, "rank": 64, "max_loras": 16}
    without, with_them = memory_need(deployment(None)), memory_need(deployment(lora))
    one = deployment(lora)
    held = 16 * 2 * adapter_values(one.model, one.plan, LoraSpec(**lora))  # type: ignore[arg-type]
    assert with_them.taken_bytes - without.taken_bytes == pytest.approx(held)
    lost = without.kv_blocks - with_them.kv_blocks
    assert lost == pytest.approx(held / (without.kv_bytes_per_token * 16), abs=1)


def test_an_adapter_has_two_halves_per_matrix() -> None:
    one = deployment({"rank": 8})
    model = one.model
    layer = 8 * (
        (3 * model.hidden + model.heads * 128 + 2 * model.kv_heads * 128)
        + (model.heads * 128 + model.hidden)
        + (2 * model.hidden + 2 * model.ffn)
        + (model.ffn + model.hidden)
    )
    assert one.engine.lora is not None
    assert adapter_values(model, one.plan, one.engine.lora) == model.layers * layer
    attention = LoraSpec(rank=8, targets="attention")
    assert [m.name for m in adapted_matrices(model, one.plan, attention)] == ["qkv", "attention out"]


def test_overhead_grows_with_adapters_in_the_step_and_is_what_explain_shows() -> None:
    def device_s(lora: dict[str, object] | None) -> float:
        return price_step(deployment(lora), decode_batch(32, 500, 0)).device_s

    plain, one, many = device_s(None), device_s({"adapters": 1}), device_s({"adapters": 32, "max_loras": 32})
    assert plain < one < many
    surface = step_surface(deployment({"adapters": 32, "max_loras": 32}))
    assert surface.adapters is not None
    added = float(surface.adapters.token_s[32]) + 31 * surface.adapters.further_s
    assert many - plain == pytest.approx(added, rel=1e-6)


def test_a_deployment_with_adapters_is_served_slower() -> None:
    load = request_table(0.1 * np.arange(40), np.full(40, 200), np.full(40, 50))
    plain, with_them = serve(deployment(None), load), serve(deployment({"adapters": 20, "max_loras": 20}), load)
    assert with_them.metrics.latency_s["tpot"]["p50"] > plain.metrics.latency_s["tpot"]["p50"]
    assert with_them.metrics.latency_s["ttft"]["p50"] > plain.metrics.latency_s["ttft"]["p50"]


@pytest.mark.parametrize(
    ("fields", "engine", "words"),
    [
        ({"adapters": 2, "max_loras": 4}, {}, "more than there are adapters"),
        ({"adapters": 0}, {}, "greater than or equal to 1"),
        ({}, {"scheduler": "orca", "max_num_batched_tokens": 4096}, "scheduler vllm"),
        ({}, {"depth": {"mean_share": 0.5}}, "full depth"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, object], engine: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        deployment(fields or {"adapters": 1}, **engine)


def test_latent_attention_is_refused() -> None:
    with pytest.raises(SpecError, match="plain attention"):
        load_deployment(
            {
                "model": "deepseek-v2-lite",
                "accelerator": "h100-sxm",
                "engine": {"extends": "vllm", "lora": {"adapters": 2}},
            }
        )


def test_assignment_follows_popularity() -> None:
    workload = together(4000)
    zipf = np.bincount(adapters_of(workload, LoraSpec(adapters=10, popularity="zipf")), minlength=10)
    weights = 1.0 / np.arange(1, 11)
    np.testing.assert_allclose(zipf / 4000, weights / weights.sum(), atol=0.03)
    base = adapters_of(workload, LoraSpec(adapters=10, base_share=0.25))
    assert np.mean(base < 0) == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(base, adapters_of(workload, LoraSpec(adapters=10, base_share=0.25)))
    assert dataclasses.is_dataclass(workload)
