"""Attention of a training microbatch: grouped queries or a latent, with the context-parallel exchange."""

from __future__ import annotations

import numpy as np

from windtunnel.operators.operator import ACTIVATION_BYTES, Number
from windtunnel.operators.training import attention, group_collective, linear, score_passes
from windtunnel.operators.training_layer import Microbatch, Recorder, column_linear, row_linear
from windtunnel.specs.fields import Dtype
from windtunnel.specs.model import LatentAttention, ModelSpec


def grouped_query(rec: Recorder, model: ModelSpec) -> None:
    """Attention whose query heads share key and value heads, from its first product to its output's."""
    m, h, dim = rec.micro, model.hidden, model.head_dim
    q_heads = model.heads / m.tp
    kv_heads = np.maximum(model.kv_heads / m.tp, 1.0)
    width = (q_heads + 2 * kv_heads) * dim
    column_linear(rec, "qkv", "qkv", width, h, trains=not m.plan.lora_rank)
    rec.second("key", m.tokens, kv_heads * dim, h)
    rotated = (q_heads + kv_heads) * dim
    passes = 1.0 if m.plan.fused_kernels else 3.0
    if model.qk_norm:
        rec.stream("norm", "qk norm", m.tokens, (rotated, rotated), (2 * rotated, rotated))
    if model.position == "rope":
        each = (passes * rotated, passes * rotated)
        rec.stream("rotary", "rotary embedding", m.tokens, each, each)
    # Unfused attention computes the whole square and masks it, windows included.
    slow_sinks = model.attention_sinks and not m.plan.fused_sinks
    skips = m.plan.flash_attention and not slow_sinks
    windowed = model.window_layers / model.layers if skips else 0.0
    pairs = (1.0 - windowed) * causal_share(m) + windowed * causal_share(m, model.window_tokens)
    scores(rec, pairs, q_heads, kv_heads, dim, dim, slow_sinks=slow_sinks)
    rec.cast(m.tokens, q_heads * dim, forward=True)
    rec.cast(m.tokens, width, forward=False)
    rec.cast(m.tokens, h, forward=False)
    row_linear(rec, "projection", "attention output", h, q_heads * dim, sends=not model.parallel_attention)
    rec.second("attention output", m.tokens, h, q_heads * dim)


def causal_share(m: Microbatch, window_tokens: int = 0) -> Number:
    """Query-key pairs of a rank's causal attention, over its context share.

    With sequences cut into consecutive pieces, the last of n ranks attends to all keys and sets the pace:
    (2 - 1 / n) times the even share.
    """
    s = m.seq_len
    pairs = s * (s + 1) / 2
    if window_tokens:
        short = np.maximum(np.asarray(s, dtype=np.float64) - window_tokens, 0.0)
        pairs = pairs - short * (short + 1) / 2
    even = m.plan.context_balanced or m.plan.context_method == "ulysses"
    return m.sequences * pairs / m.cp * (1.0 if even else 2.0 - 1.0 / m.cp)


def scores(
    rec: Recorder, pairs: Number, q_heads: Number, kv_heads: Number, dim: int, v_dim: int, *, slow_sinks: bool = False
) -> None:
    """Attention itself, with the context-parallel exchange of keys and values or of heads."""
    m, plan = rec.micro, rec.micro.plan
    ulysses = plan.context_method == "ulysses"
    heads = (q_heads / m.cp, np.maximum(kv_heads / m.cp, 1.0)) if ulysses else (q_heads, kv_heads)
    tokens = m.tokens * m.cp if ulysses else m.tokens
    each = pairs * m.cp if ulysses else pairs
    dtype: Dtype = plan.attention_dtype
    made = [
        attention(
            tokens,
            each,
            m.tokens * m.cp,
            q_heads=heads[0],
            kv_heads=heads[1],
            head_dim=dim,
            v_head_dim=v_dim,
            backward=backward,
            flash=plan.flash_attention,
            dtype=dtype,
            version=plan.flash_version,
            slow_sinks=slow_sinks,
            passes=score_passes(backward=backward, fused=plan.fused_kernels, dropout=plan.dropout),
        )
        for backward in (False, True)
    ]
    rec.forward("core_attention", made[0])
    rec.backward(made[1])
    if ulysses:
        sent = m.tokens * ((q_heads + kv_heads) * dim + (q_heads + kv_heads) * v_dim) * ACTIVATION_BYTES
        one = group_collective("heads for context", "all_to_all", sent, "context", m.cp)
        rec.send("core_attention", one, one)
        return
    keys = m.tokens * m.cp * kv_heads * (dim + v_dim) * ACTIVATION_BYTES
    ring = group_collective("keys and values", "all_gather", keys, "context", m.cp)
    back = group_collective("keys, values and gradients", "all_gather", 2.0 * keys, "context", m.cp)
    rec.phases.forward.pieced.append((ring, made[0]))
    if rec.again("core_attention"):
        rec.phases.recompute.pieced.append((ring, made[0]))
    rec.phases.input_gradient.pieced.append((back, made[1]))


def latent_attention(rec: Recorder, model: ModelSpec, a: LatentAttention) -> None:
    """Multi-head latent attention: the down projections are replicated over TP, heads are sharded."""
    m, h = rec.micro, model.hidden
    heads = model.heads / m.tp
    trains = not m.plan.lora_rank
    rows = m.rows
    q_dim, dtype = a.qk_nope_head_dim + a.qk_rope_head_dim, m.dtype
    if a.q_lora_rank:
        rec.product("qkv", linear("query down", rows, a.q_lora_rank, h, dtype), trains=trains)
        rec.stream("norm", "query norm", rows, (a.q_lora_rank, a.q_lora_rank), (2 * a.q_lora_rank, a.q_lora_rank))
        column_linear(rec, "latent_up", "query up", heads * q_dim, a.q_lora_rank, trains=trains)
    else:
        column_linear(rec, "qkv", "query", heads * q_dim, h, trains=trains)
    latent = a.kv_lora_rank + a.qk_rope_head_dim
    rec.product("qkv", linear("latent down", rows, latent, h, dtype), trains=trains)
    rec.stream("norm", "latent norm", rows, (a.kv_lora_rank, a.kv_lora_rank), (2 * a.kv_lora_rank, a.kv_lora_rank))
    up = heads * (a.qk_nope_head_dim + a.v_head_dim)
    column_linear(rec, "latent_up", "latent up", up, a.kv_lora_rank, trains=trains)
    # Rotary parts are turned and laid beside the others: queries and keys are written once more.
    joined = (2 * heads * q_dim, 2 * heads * q_dim)
    rec.stream("latent_up", "rotary embedding", m.tokens, joined, joined)
    scores(rec, causal_share(m), heads, heads, q_dim, a.v_head_dim)
    rec.cast(m.tokens, heads * a.v_head_dim, forward=True)
    rec.cast(m.tokens, heads * (2 * q_dim + a.v_head_dim), forward=False)
    rec.cast(m.tokens, h, forward=False)
    row_linear(rec, "projection", "attention output", h, heads * a.v_head_dim)
