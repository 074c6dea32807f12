"""Work of a forward pass against formulas written from the architecture, and conservation under sharding."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from windtunnel.operators.batch import Batch, decode_batch, prefill_batch
from windtunnel.operators.collective import Collective
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.expand import expand
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.moe import Experts
from windtunnel.operators.operator import Operator
from windtunnel.operators.shard import shard, stage_layers
from windtunnel.specs.load import resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

MODELS = [
    "llama-3.1-8b",
    "falcon-40b",
    "gpt-j-6b",
    "opt-350m",
    "mixtral-8x7b",
    "deepseek-v3",
    "glm-5",
    "gpt-oss-20b",
    "gemma-3-27b",
]
ONE = PlanSpec()


def flops(operators: Iterable[Operator], *kinds: type[Operator]) -> float:
    return sum(float(one.flops) * one.count for one in operators if isinstance(one, kinds))


def vectors(model: ModelSpec) -> int:
    """Parameters that no matrix product multiplies: norms, biases, sinks, tables of embeddings and positions."""
    h = model.hidden
    attention = model.qkv_bias * (model.heads + 2 * model.kv_heads) * model.head_dim + model.attention_out_bias * h
    attention += model.qk_norm_values + model.heads * model.attention_sinks
    if model.latent:
        attention += model.latent.q_lora_rank + model.latent.kv_lora_rank
    if model.sparse_index:
        attention += 2 * model.sparse_index.head_dim
    per_layer = attention + model.norm_parameters()
    mlp = model.mlp_bias * ((model.mlp_matrices - 1) * model.ffn + h) * model.dense_layers
    if model.moe is not None:
        bias = ((model.mlp_matrices - 1) * model.moe.expert_ffn + h) * model.moe.expert_bias
        mlp += model.moe_layers * (model.moe.experts_per_token * bias + model.moe.experts * model.moe.router_bias)
    tables = 0 if model.tied_embeddings else model.vocab * (model.embedding_dim or h)
    final_norm = h * (2 if model.norm == "layernorm" else 1)
    return (
        model.layers * per_layer
        + mlp
        + tables
        + model.learned_positions * h
        + model.vocab * model.head_bias
        + final_norm
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("decode", [False, True])
def test_matmul_flops_are_two_per_active_parameter_and_token(name: str, decode: bool) -> None:
    model = resolve("models", name)
    batch = decode_batch(7, 100) if decode else prefill_batch([(0, 7)], last=False) + Batch(sampled=7)
    done = flops(expand(model, ONE, batch), Matmul, Experts)
    assert done == pytest.approx(2.0 * (model.active_parameters() - vectors(model)) * 7, rel=1e-12)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "falcon-40b"])
def test_attention_flops_are_four_per_head_dimension_and_pair(name: str) -> None:
    model = resolve("models", name)
    prompt = prefill_batch([(0, 300), (64, 100)])
    done = [one for one in expand(model, ONE, prompt) if one.name == "prefill attention"]
    assert flops(done, Operator) == 4.0 * model.heads * model.head_dim * prompt.prefill_pairs * model.layers
    decode = [one for one in expand(model, ONE, decode_batch(5, 700)) if one.name == "decode attention"]
    assert flops(decode, Operator) == 4.0 * model.heads * model.head_dim * 5 * 700 * model.layers
    assert float(decode[0].stored_bytes) * model.layers == 5 * 700 * model.kv_bytes_per_token(2.0)


def test_windowed_layers_attend_to_the_window_only() -> None:
    model = resolve("models", "gpt-oss-20b")
    batch = decode_batch(2, 1000, model.window_tokens) + prefill_batch([(0, 500)], model.window_tokens)
    by_name = {one.name: one for one in expand(model, ONE, batch)}
    full, windowed = by_name["decode attention"], by_name["decode attention, windowed"]
    assert full.count + windowed.count == model.layers
    assert float(windowed.flops) / float(full.flops) == pytest.approx(128 / 1000)
    ratio = batch.prefill_window_pairs / batch.prefill_pairs
    prefill, cut = by_name["prefill attention"], by_name["prefill attention, windowed"]
    assert float(cut.flops) / float(prefill.flops) == pytest.approx(ratio)


def test_latent_attention_counts_scores_over_the_latent_in_decode() -> None:
    model = resolve("models", "deepseek-v3")
    decode = [one for one in expand(model, ONE, decode_batch(3, 1000)) if one.name == "decode attention"]
    assert flops(decode, Operator) == 2.0 * 128 * (512 + 64 + 512) * 3000 * 61
    assert float(decode[0].stored_bytes) == 3000 * 576 * 2


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("tp", "ep"), [(2, 1), (4, 2), (8, 8)])
def test_ranks_share_the_work(name: str, tp: int, ep: int) -> None:
    """Ranks together do at least the whole work; what is more is replicated: router, latents, KV heads, index."""
    model = resolve("models", name)
    if model.heads % tp or (model.moe is None and ep > 1):
        pytest.skip("the plan does not divide this model")
    batch = prefill_batch([(0, 64)])
    plan = PlanSpec(tensor_parallel=tp, expert_parallel=ep)
    whole, part = (flops(expand(model, p, batch), Operator) for p in (ONE, plan))
    assert whole * (1 - 1e-12) <= tp * part <= 1.38 * whole


def test_collectives_per_layer() -> None:
    batch = decode_batch(8, 100)
    plan = PlanSpec(tensor_parallel=4)

    def reductions(name: str) -> float:
        operators = expand(resolve("models", name), plan, batch)
        return sum(one.count for one in operators if isinstance(one, Collective) and one.kind == "all_reduce")

    assert reductions("llama-3.1-8b") == 2 * 32 + 1
    assert reductions("gpt-j-6b") == 28 + 1
    message = next(one for one in expand(resolve("models", "llama-3.1-8b"), plan, batch) if one.name == "all-reduce")
    assert message.message_bytes == 8 * 4096 * 2


def test_norms_over_all_heads_exchange_two_sums_a_token() -> None:
    """MiniMax-M2.5 on four ranks: 12 query and 2 key heads of 128; alone a rank needs no exchange."""
    model = resolve("models", "minimax-m2.5")
    found = {one.name: one for one in expand(model, PlanSpec(tensor_parallel=4), decode_batch(5, 100))}
    norm, sums = found["qk norm"], found["qk norm sums"]
    assert isinstance(norm, Elementwise)
    assert (norm.kernels, norm.read_bytes, norm.write_bytes) == (2, 5 * 2 * 2 * 14 * 128, 5 * 2 * 14 * 128)
    assert isinstance(sums, Collective)
    assert (sums.kind, sums.count, sums.group, sums.message_bytes) == ("all_reduce", 62, 4, 5 * 2 * 4)
    assert "qk norm sums" not in {one.name for one in expand(model, ONE, decode_batch(5, 100))}
    per_head = expand(resolve("models", "qwen3-30b-a3b"), PlanSpec(tensor_parallel=4), decode_batch(5, 100))
    assert "qk norm sums" not in {one.name for one in per_head}


def launched(name: str, ranks: int, *fused: str) -> dict[str, int]:
    """Kernels of a layer's elementwise operators, on an engine that fuses so much."""
    plan = PlanSpec(tensor_parallel=ranks, weight_dtype="fp8")
    found = expand(resolve("models", name), plan, decode_batch(5, 100))
    return {one.name: one.launched(fused) for one in found if isinstance(one, Elementwise)}


def test_attention_that_rotates_and_writes_leaves_no_kernel_for_that() -> None:
    plain, fused = launched("llama-3.1-70b", 1), launched("llama-3.1-70b", 1, "attention")
    assert {name for name, kernels in plain.items() if kernels != fused[name]} == {"rope", "kv write", "quantise"}
    assert not any(fused[name] for name in ("rope", "kv write", "quantise"))
    # Norms of queries and keys stay a kernel, which then rotates; latent attention's rotates and writes.
    qwen, deepseek = launched("qwen3-32b", 1, "attention"), launched("deepseek-v3", 1, "attention")
    assert (qwen["qk norm"], qwen["rope"]) == (1, 0)
    assert (deepseek["rope"], deepseek["kv write"], deepseek["quantise"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("name", "ranks", "kernels"),
    [
        ("llama-3.1-70b", 1, 1),
        ("llama-3.1-70b", 8, 0),
        ("llama-3.1-8b", 8, 1),
        ("qwen3-32b", 8, 1),
        ("qwen3-30b-a3b", 8, 0),
        ("gpt-oss-20b", 8, 0),
        ("deepseek-v3", 8, 0),
    ],
)
def test_an_all_reduce_normalises_where_the_engine_has_it_do_so(name: str, ranks: int, kernels: int) -> None:
    assert launched(name, ranks, "all-reduce")["norm"] == kernels
    assert launched(name, ranks, "attention")["norm"] == 1


def test_key_value_heads_are_replicated_beyond_their_number() -> None:
    model = resolve("models", "llama-3.1-8b")
    assert shard(model, PlanSpec(tensor_parallel=16)).kv_heads == 1
    qkv = next(one for one in expand(model, PlanSpec(tensor_parallel=16), decode_batch(1, 1)) if one.name == "qkv")
    assert isinstance(qkv, Matmul)
    assert qkv.n == (2 + 2) * 128


def test_pipeline_hops_and_stage_layers() -> None:
    model = resolve("models", "llama-3.1-8b")
    hops = [one for one in expand(model, PlanSpec(pipeline_parallel=4), decode_batch(8, 10)) if one.part == "hop"]
    assert [one.count for one in hops] == [3]
    assert hops[0].message_bytes == 2 * 8 * 4096 * 2
    for layers in (1, 7, 61, 80):
        for stages in (1, 2, 3, 7):
            if stages <= layers:
                held = stage_layers(layers, stages)
                assert sum(held) == layers
                assert max(held) - min(held) <= 1


def test_head_is_computed_for_sampled_rows_only() -> None:
    model = resolve("models", "llama-3.1-8b")
    names = [one.name for one in expand(model, ONE, prefill_batch([(0, 100)], last=False))]
    assert "lm head" not in names
    head = next(one for one in expand(model, ONE, prefill_batch([(0, 100), (0, 5)])) if one.name == "lm head")
    assert isinstance(head, Matmul)
    assert head.m == 2


def test_quantised_weights_leave_head_and_router_alone() -> None:
    model = resolve("models", "qwen3-30b-a3b")
    plan = PlanSpec(weight_dtype="fp8")
    formats = {one.name: one.weight_dtype for one in expand(model, plan, decode_batch(1, 1)) if isinstance(one, Matmul)}
    assert formats["qkv"] == "fp8"
    assert formats["router"] == formats["lm head"] == "bf16"


def test_dense_dtype_keeps_attention_of_gpt_oss_in_bf16() -> None:
    operators = expand(resolve("models", "gpt-oss-20b"), PlanSpec(weight_dtype="mxfp4"), decode_batch(1, 1))
    formats = {one.name: one.weight_dtype for one in operators if isinstance(one, Matmul | Experts)}
    assert formats["experts"] == "mxfp4"
    assert formats["qkv"] == "bf16"
