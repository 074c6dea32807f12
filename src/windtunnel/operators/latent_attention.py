"""Multi-head latent attention: keys and values as one low-rank latent per token (DeepSeek-V2, section 2.1)."""

from __future__ import annotations

from windtunnel.operators.attention import latent_decode_attention, prefill_attention
from windtunnel.operators.elementwise import elementwise, quantize
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator, Part
from windtunnel.operators.shard import Shard, matrix_dtypes, plain_dtype
from windtunnel.operators.sparse_attention import index_projections, index_scores, sparse_prefill_attention
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.model import LatentAttention, ModelSpec
from windtunnel.specs.plan import PlanSpec


def latent_projections(model: ModelSpec, plan: PlanSpec, part: Shard, tokens: Number) -> list[Operator]:
    """Multi-head latent attention: down-projections are replicated, per-head ones sharded."""
    a = _latent(model)
    stored, computed = matrix_dtypes(model, plan, routed=False)
    layers, h = model.layers, model.hidden
    q = part.q_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
    latent = a.kv_lora_rank + a.qk_rope_head_dim
    if a.q_lora_rank:
        down = a.q_lora_rank + latent
        found: list[Operator] = [
            matmul("q and kv down", "tokens", layers, tokens, down, h, stored, computed),
            elementwise("latent norms", "tokens", layers, tokens, read=down, written=down, kernels=2),
            matmul("q up", "tokens", layers, tokens, q, a.q_lora_rank, stored, computed),
        ]
    else:
        found = [
            matmul("q", "tokens", layers, tokens, q, h, stored, computed),
            matmul("kv down", "tokens", layers, tokens, latent, h, stored, computed),
            elementwise("latent norms", "tokens", layers, tokens, read=latent, written=latent),
        ]
    rotary = (part.q_heads + 1) * a.qk_rope_head_dim
    out = part.q_heads * a.v_head_dim
    # One kernel rotates and appends to the cache where an engine fuses them.
    moved = {"read": rotary, "written": rotary}
    found.append(elementwise("rope", "tokens", layers, tokens, **moved, within="attention", left=1))
    found.append(elementwise("kv write", "tokens", layers, tokens, read=latent, written=latent, within="attention"))
    if a.index is not None:
        found += index_projections(model, a.index, plan, tokens)
    found += quantize(layers, tokens, out, computed)
    found.append(matmul("attention out", "tokens", layers, tokens, h, out, stored, computed))
    return found


def latent_decode(
    model: ModelSpec, plan: PlanSpec, part: Shard, requests: Number, context_tokens: Number, queries: int
) -> list[Operator]:
    """What latent attention does over the whole context in decode: attend, or with an index score every token."""
    index = _latent(model).index
    if index is None:
        return _absorbed(model, plan, part, "decode", requests, context_tokens, queries)
    rows, pairs = requests * queries, context_tokens * queries
    return index_scores(index, "decode", model.layers, rows, pairs, context_tokens)


def sparse_decode(
    model: ModelSpec, plan: PlanSpec, part: Shard, requests: Number, attended_tokens: Number, queries: int
) -> list[Operator]:
    """Attention over the tokens that the index has picked, min(context, topk) of every request.

    Drafted tokens pick for themselves, so every query reads its own latents.
    """
    return _absorbed(model, plan, part, "decode_window", requests * queries, attended_tokens * queries, 1)


def _absorbed(
    model: ModelSpec,
    plan: PlanSpec,
    part: Shard,
    which: Part,
    requests: Number,
    context_tokens: Number,
    queries: int,
) -> list[Operator]:
    """Queries are taken into the latent space, outputs out of it, per head.

    The same FLOPs per token as projecting its latent up to keys and values; the matrices are
    kept in 16 bits (they are not quantised by engines).
    """
    a, layers, heads = _latent(model), model.layers, part.q_heads
    plain, rows = plain_dtype(plan), requests * queries
    return [
        matmul("absorb keys", which, layers, rows, a.kv_lora_rank, a.qk_nope_head_dim, plain, plain, batch=heads),
        latent_decode_attention(
            "decode attention",
            which,
            layers,
            requests,
            context_tokens,
            heads=heads * queries,
            latent_dim=a.kv_lora_rank,
            rope_dim=a.qk_rope_head_dim,
            kv_bytes=DTYPE_BYTES[plan.kv_dtype],
        ),
        matmul("absorb values", which, layers, rows, a.v_head_dim, a.kv_lora_rank, plain, plain, batch=heads),
    ]


def latent_prefill(
    model: ModelSpec,
    plan: PlanSpec,
    part: Shard,
    requests: Number,
    tokens: Number,
    pairs: Number,
    context_tokens: Number,
    keys: Number,
) -> list[Operator]:
    """Latent attention in prefill: keys and values are projected up, for the cached context of a chunk again."""
    a, layers, heads = _latent(model), model.layers, part.q_heads
    stored, computed = matrix_dtypes(model, plan, routed=False)
    width = heads * (a.qk_nope_head_dim + a.v_head_dim)
    return [
        matmul("kv up", "prefill", layers, context_tokens, width, a.kv_lora_rank, stored, computed, per_row=True),
        prefill_attention(
            "prefill attention",
            layers,
            requests,
            tokens,
            pairs,
            context_tokens,
            keys,
            q_heads=heads,
            kv_heads=heads,
            head_dim=a.qk_nope_head_dim + a.qk_rope_head_dim,
            v_head_dim=a.v_head_dim,
            kv_bytes=ACTIVATION_BYTES,
        ),
    ]


def sparse_prefill(
    model: ModelSpec,
    plan: PlanSpec,
    part: Shard,
    tokens: Number,
    pairs: Number,
    attended_pairs: Number,
    context_tokens: Number,
) -> list[Operator]:
    """Sparse attention in prefill: the index scores all pairs, then every token attends to latents of its own choice.

    Engines run the absorbed form for it, with no projection up: SGLang 0.5.9 with `flash_mla_sparse_fwd` or
    TensorRT-LLM's kernels, vLLM 0.18 with FlashMLA's or FlashInfer's. SGLang falls back to dense attention, without
    scores, in steps in which no request is longer than topk; that is not modelled.
    """
    a, layers, heads = _latent(model), model.layers, part.q_heads
    assert a.index is not None
    plain = plain_dtype(plan)
    latent, nope, value = a.kv_lora_rank, a.qk_nope_head_dim, a.v_head_dim
    return [
        *index_scores(a.index, "prefill", layers, tokens, pairs, context_tokens),
        matmul("absorb keys", "prefill", layers, tokens, latent, nope, plain, plain, batch=heads, per_row=True),
        sparse_prefill_attention(
            "prefill attention, sparse",
            layers,
            tokens,
            attended_pairs,
            topk=a.index.topk,
            heads=heads,
            latent_dim=a.kv_lora_rank,
            rope_dim=a.qk_rope_head_dim,
            kv_bytes=DTYPE_BYTES[plan.kv_dtype],
        ),
        matmul("absorb values", "prefill", layers, tokens, value, latent, plain, plain, batch=heads, per_row=True),
    ]


def _latent(model: ModelSpec) -> LatentAttention:
    assert model.latent is not None
    return model.latent
