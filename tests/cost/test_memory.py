"""The memory account against real engines, published sizes and conservation under sharding."""

from __future__ import annotations

import pytest

from windtunnel.cost.memory import kv_bytes_per_token, memory_need, weight_rows
from windtunnel.errors import InfeasibleError
from windtunnel.specs.assemble import deployment
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec


def engine(name: str = "vllm", **settings: object) -> EngineSpec:
    found: EngineSpec = resolve("engines", name)
    return found.model_copy(update=settings)


def weights(name: str, **plan: object) -> float:
    model = resolve("models", name)
    rows = weight_rows(model, PlanSpec(**plan), 0, model.layers, True, True)  # type: ignore[arg-type]
    return sum(row.bytes for row in rows if row.name != "weights, absorbed")


def test_blocks_of_a_real_engine_run() -> None:
    """vLLM 0.19 on an RTX 4090 reported 2,588 blocks of 16 tokens for these settings."""
    settings = {"memory_utilization": 0.9, "max_model_len": 32768, "max_num_seqs": 256, "max_num_batched_tokens": 2048}
    found = deployment("llama-3.1-8b", "rtx-4090", engine=engine("vllm-0.19", **settings))
    need = memory_need(found)
    assert need.kv_blocks == pytest.approx(2588, rel=0.03)
    assert need.fits


def test_llama_70b_does_not_fit_one_80_gb_device_and_the_message_shows_the_sum() -> None:
    need = memory_need(deployment("llama-3.1-70b", "h100-sxm"))
    assert not need.fits
    assert not need.loads
    assert need.weight_bytes == pytest.approx(141.1e9, rel=1e-3)
    with pytest.raises(InfeasibleError) as error:
        need.check("llama-3.1-70b on h100-sxm")
    message = str(error.value)
    assert "weights 136.9 GB + weights, embedding and head 4.2 GB" in message
    assert "> 78.7 GB (92% of 85.5 GB)" in message


def test_a_cache_shorter_than_the_longest_request_is_refused_with_the_reason() -> None:
    need = memory_need(deployment("llama-3.1-8b", "rtx-4090", engine=engine(max_model_len=131072)))
    assert need.loads
    assert not need.fits
    assert "max_model_len 131,072" in need.reason()


def test_the_account_adds_up_to_the_engines_budget() -> None:
    need = memory_need(deployment("qwen3-30b-a3b", "h100-sxm"))
    assert sum(row.bytes for row in need.explain()) == pytest.approx(need.budget_bytes)
    assert need.kv_blocks * need.block_tokens * need.kv_bytes_per_token <= need.kv_bytes


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "falcon-40b", "opt-350m", "mixtral-8x7b", "deepseek-v3", "glm-5", "gemma-3-27b"]
)
def test_one_rank_holds_the_models_parameters(name: str) -> None:
    assert weights(name) == pytest.approx(2.0 * resolve("models", name).parameters(), rel=2e-3)


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "glm-5", "gpt-oss-120b"])
def test_ranks_hold_the_whole_model_and_little_more(name: str) -> None:
    """What ranks hold twice: norms, router, latent down-projections, padding of the vocabulary."""
    whole = weights(name)
    for plan in ({"tensor_parallel": 8}, {"tensor_parallel": 8, "expert_parallel": 4}):
        if plan.get("expert_parallel", 1) > 1 and resolve("models", name).moe is None:
            continue
        assert whole <= 8 * weights(name, **plan) <= 1.02 * whole


@pytest.mark.parametrize("name", ["llama-3.1-70b", "deepseek-v3"])
def test_stages_hold_the_whole_model(name: str) -> None:
    model, plan = resolve("models", name), PlanSpec(pipeline_parallel=2)
    half = model.layers // 2
    first = weight_rows(model, plan, 0, half, True, False)
    second = weight_rows(model, plan, half, model.layers - half, False, True)
    whole = weight_rows(model, plan, 0, model.layers, True, True)
    assert sum(row.bytes for row in first + second) == pytest.approx(sum(row.bytes for row in whole), rel=1e-12)


def test_quantised_weights() -> None:
    eight, half = weights("llama-3.1-8b", weight_dtype="fp8"), weights("llama-3.1-8b")
    tables = 2 * 2 * 128256 * 4096
    assert eight == pytest.approx((half - tables) / 2 + tables, rel=1e-3)
    # The published files of gpt-oss-120b: experts in mxfp4, the rest in bf16; 60.8 GiB on disk.
    assert weights("gpt-oss-120b", weight_dtype="mxfp4") == pytest.approx(60.8 * 2**30, rel=0.01)


def test_kv_bytes_per_token_on_a_rank() -> None:
    llama, deepseek, gemma = (resolve("models", name) for name in ("llama-3.1-70b", "deepseek-v3", "gemma-3-27b"))
    assert kv_bytes_per_token(llama, PlanSpec()) == 327680
    assert kv_bytes_per_token(llama, PlanSpec(tensor_parallel=8)) == 327680 / 8
    assert kv_bytes_per_token(llama, PlanSpec(tensor_parallel=16)) == 327680 / 8
    assert kv_bytes_per_token(llama, PlanSpec(kv_dtype="fp8")) == 327680 / 2
    assert (
        kv_bytes_per_token(deepseek, PlanSpec()) == kv_bytes_per_token(deepseek, PlanSpec(tensor_parallel=8)) == 70272
    )
    each = 2 * 16 * 128 * 2
    assert kv_bytes_per_token(gemma, PlanSpec()) == 62 * each
    assert kv_bytes_per_token(gemma, PlanSpec(), request_tokens=8192) == (10 + 52 / 8) * each


def test_keys_of_a_sparse_index_are_cached_on_every_rank_in_8_bits() -> None:
    glm = resolve("models", "glm-5")
    for plan in (PlanSpec(), PlanSpec(tensor_parallel=8)):
        assert kv_bytes_per_token(glm, plan) == 78 * (576 * 2 + 128 + 4)
    assert kv_bytes_per_token(glm, PlanSpec(kv_dtype="fp8")) == 78 * (576 + 128 + 4)
    engine_ = engine("sglang", max_model_len=8192)
    need = memory_need(
        deployment(glm.name, "b300-sxm", engine=engine_, plan=PlanSpec(tensor_parallel=8, weight_dtype="fp8"))
    )
    assert need.kv_bytes_per_token == 78 * (576 * 2 + 132)


def test_a_stage_needs_the_room_of_its_own_layers() -> None:
    whole = memory_need(deployment("llama-3.1-8b", "h100-sxm"))
    halves = memory_need(deployment("llama-3.1-8b", "h100-sxm", plan=PlanSpec(pipeline_parallel=2)))
    assert halves.kv_bytes_per_token == whole.kv_bytes_per_token / 2
    assert halves.kv_blocks > 2 * whole.kv_blocks


def test_a_larger_token_budget_leaves_fewer_blocks() -> None:
    few, many = (
        memory_need(
            deployment("llama-3.1-8b", "l40s", engine=engine(max_num_batched_tokens=tokens, max_model_len=8192))
        )
        for tokens in (2048, 16384)
    )
    assert many.kv_blocks < few.kv_blocks
