"""A rank's weights, matrix by matrix, as tensor and expert parallelism cut them."""

from __future__ import annotations

import numpy as np

from windtunnel.operators.operator import Number
from windtunnel.specs.model import LatentAttention, LinearAttention
from windtunnel.training.memory_layout import MemoryLayout
from windtunnel.training.optimizers import Matrix


def stage_matrices(layout: MemoryLayout, dense: Number, sparse: Number, first: Number, last: Number) -> list[Matrix]:
    """Weights of a pipeline rank.

    Args:
        layout: the layout.
        dense, sparse: layers with a dense and with a routed MLP that the rank holds.
        first, last: how many embeddings and heads it holds (1 or 0 as a rule).
    """
    layers = dense + sparse
    found = [
        *_attention(layout, layers),
        Matrix("norms", "vector", 1.0, float(layout.model.norm_parameters()), layers),
    ]
    if layout.model.dense_layers:
        found += dense_mlp_matrices(layout, layout.model.ffn, dense)
    if layout.model.moe is not None:
        found += _routed(layout, sparse)
    return found + _ends(layout, first, last)


def layer_matrices(layout: MemoryLayout, routed: bool) -> list[Matrix]:
    """Weights of one layer."""
    return stage_matrices(layout, 0.0 if routed else 1.0, 1.0 if routed else 0.0, 0.0, 0.0)


def _attention(layout: MemoryLayout, layers: Number) -> list[Matrix]:
    """Attention of the layers; where some are linear, each rank is taken to hold its share of both kinds."""
    model, tp = layout.model, layout.tp
    if model.latent is not None:
        return _latent(layout, model.latent, layers)
    attending = layers * (model.attention_layers / model.layers)
    q = model.heads / tp * model.head_dim
    kv = np.maximum(model.kv_heads / tp, 1.0) * model.head_dim
    qkv = q * (2.0 if model.attention_gate else 1.0) + 2.0 * kv
    normed = q + kv if model.qk_norm_over == "layer" else 2.0 * model.head_dim
    small = qkv * model.qkv_bias + model.hidden * model.attention_out_bias + normed * model.qk_norm
    small = small + model.heads / tp * model.attention_sinks
    found = [
        Matrix("attention", "linear", qkv, float(model.hidden), attending),
        Matrix("attention output", "linear", float(model.hidden), q, attending),
        Matrix("attention biases", "vector", 1.0, small, attending),
    ]
    if model.linear is not None:
        found += _linear(layout, model.linear, layers - attending)
    return found


def _linear(layout: MemoryLayout, a: LinearAttention, layers: Number) -> list[Matrix]:
    """Linear attention: projections sharded by heads, and a short convolution."""
    h, tp = float(layout.model.hidden), layout.tp
    channels = (2.0 * a.key_heads * a.key_dim + a.out_width) / tp
    return [
        Matrix("linear attention", "linear", a.in_width / tp, h, layers),
        Matrix("linear attention output", "linear", h, a.out_width / tp, layers),
        Matrix("linear attention convolution", "vector", float(a.conv_tokens), channels, layers),
        Matrix("linear attention gates", "vector", 1.0, 2.0 * a.value_heads / tp + a.value_dim, layers),
    ]


def _latent(layout: MemoryLayout, a: LatentAttention, layers: Number) -> list[Matrix]:
    """Latent attention: down projections and a sparse index are copied on every TP rank, heads are sharded."""
    h, heads = float(layout.model.hidden), layout.model.heads / layout.tp
    q_width = heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
    found = [
        Matrix("latent down", "linear", float(a.kv_lora_rank + a.qk_rope_head_dim), h, layers),
        Matrix("latent up", "linear", heads * (a.qk_nope_head_dim + a.v_head_dim), float(a.kv_lora_rank), layers),
        Matrix("attention output", "linear", h, heads * a.v_head_dim, layers),
        Matrix("latent norms", "vector", 1.0, float(a.kv_lora_rank + a.q_lora_rank), layers),
    ]
    if a.q_lora_rank:
        found.append(Matrix("query down", "linear", float(a.q_lora_rank), h, layers))
        found.append(Matrix("query up", "linear", q_width, float(a.q_lora_rank), layers))
    else:
        found.append(Matrix("query", "linear", q_width, h, layers))
    if a.index is not None:
        index = a.index
        found += [
            Matrix("index queries", "linear", float(index.heads * index.head_dim), float(a.q_lora_rank), layers),
            Matrix("index key and weights", "linear", float(index.head_dim + index.heads), h, layers),
            Matrix("index norm", "vector", 1.0, 2.0 * index.head_dim, layers),
        ]
    return found


def dense_mlp_matrices(layout: MemoryLayout, ffn: int, layers: Number, name: str = "mlp") -> list[Matrix]:
    """Up (and gate, as one matrix) and down of a dense MLP."""
    model = layout.model
    width, gates = ffn / layout.tp, model.mlp_matrices - 1
    found = [
        Matrix(f"{name} up", "linear", gates * width, float(model.hidden), layers),
        Matrix(f"{name} down", "linear", float(model.hidden), width, layers),
    ]
    if model.mlp_bias:
        found.append(Matrix(f"{name} biases", "vector", 1.0, gates * width + model.hidden, layers))
    return found


def _routed(layout: MemoryLayout, layers: Number) -> list[Matrix]:
    """Router, shared experts and the rank's routed experts."""
    model, moe = layout.model, layout.model.moe
    assert moe is not None
    h, gates = float(model.hidden), model.mlp_matrices - 1
    width = moe.expert_ffn / layout.etp
    held = layers * moe.experts / layout.ep
    found = [
        Matrix("router", "linear", float(moe.experts), h, layers),
        Matrix("experts up", "linear", gates * width, h, held, routed=True),
        Matrix("experts down", "linear", h, width, held, routed=True),
    ]
    if moe.router_bias or moe.shared_gate:
        small = moe.experts * moe.router_bias + h * moe.shared_gate
        found.append(Matrix("router's bias and gate", "vector", 1.0, small, layers))
    if moe.expert_bias:
        found.append(Matrix("expert biases", "vector", 1.0, gates * width + h, held, routed=True))
    if moe.shared_ffn:
        found += dense_mlp_matrices(layout, moe.shared_ffn, layers, "shared experts")
    return found


def _ends(layout: MemoryLayout, first: Number, last: Number) -> list[Matrix]:
    """Embedding and head; a tied head is the embedding itself where one rank holds both."""
    model = layout.model
    width = float(model.embedding_dim or model.hidden)
    heads = last * (1.0 - np.minimum(first, 1.0)) if model.tied_embeddings else last
    vectors = last * (model.hidden * (2.0 if model.norm == "layernorm" else 1.0) + layout.vocab * model.head_bias)
    found = [
        Matrix("embedding", "embedding", layout.vocab, width, first),
        Matrix("head", "head", layout.vocab, width, heads),
        Matrix("final norm", "vector", 1.0, 1.0, vectors),
    ]
    if model.learned_positions:
        found.append(Matrix("positions", "embedding", float(model.learned_positions), float(model.hidden), first))
    if width != model.hidden:
        found.append(Matrix("embedding projections", "linear", width, float(model.hidden), first + last))
    return found
