"""Floating-point work of training, as MFU counts it: no recomputation, causal attention exactly."""

from __future__ import annotations

from windtunnel.operators.batch import causal_pairs, windowed_pairs
from windtunnel.specs.model import ModelSpec


def matmul_parameters(model: ModelSpec) -> int:
    """Parameters that a token is multiplied with: active ones, LM head included, lookups, norms and biases not."""
    h = model.hidden
    if model.latent is not None:
        a = model.latent
        query = h * a.q_lora_rank + a.q_lora_rank * model.q_width if a.q_lora_rank else h * model.q_width
        latent = h * (a.kv_lora_rank + a.qk_rope_head_dim)
        up = a.kv_lora_rank * model.heads * (a.qk_nope_head_dim + a.v_head_dim)
        attention = query + latent + up + model.heads * a.v_head_dim * h
    else:
        attention = h * (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    total = model.layers * attention + model.dense_layers * model.mlp_matrices * h * model.ffn
    if model.moe is not None:
        width = model.moe.experts_per_token * model.moe.expert_ffn + model.moe.shared_ffn
        total += model.moe_layers * (model.mlp_matrices * h * width + h * model.moe.experts)
    projections = 2 * model.embedding_dim * h if model.embedding_dim else 0
    return total + model.vocab * (model.embedding_dim or h) + projections


def attention_flops_per_token(model: ModelSpec, seq_len: int, *, causal: bool = True) -> float:
    """Forward FLOPs of attention scores and values per token, over all layers.

    Args:
        model: the model.
        seq_len: tokens per sequence.
        causal: count the pairs that are computed; otherwise the whole square, as many papers do.
    """
    dims = 2 * model.head_dim
    if model.latent is not None:
        dims = model.latent.qk_nope_head_dim + model.latent.qk_rope_head_dim + model.latent.v_head_dim
    pairs = float(causal_pairs(0, seq_len)) if causal else float(seq_len) ** 2
    windowed = pairs
    if model.window_layers and causal:
        windowed = float(windowed_pairs(0, seq_len, model.window_tokens))
    full = model.layers - model.window_layers
    return 2.0 * model.heads * dims * (full * pairs + model.window_layers * windowed) / seq_len


def training_flops_per_token(model: ModelSpec, seq_len: int, *, causal: bool = True, mtp_layers: int = 0) -> float:
    """6 N and three times the forward work of attention (backward is twice forward).

    Args:
        model: the model.
        seq_len: tokens per sequence.
        causal: count the pairs of attention that are computed; otherwise the whole square.
        mtp_layers: layers that predict further ahead, each with its joining product and the head.
    """
    once = 6.0 * matmul_parameters(model) + 3.0 * attention_flops_per_token(model, seq_len, causal=causal)
    return once + mtp_layers * _ahead_flops(model, seq_len, causal=causal)


def _ahead_flops(model: ModelSpec, seq_len: int, *, causal: bool) -> float:
    """Work per token of a multi-token-prediction layer: one layer of the last kind, 2 h^2 and the head."""
    deeper = model.model_copy(update={"layers": model.layers + 1})
    layer = matmul_parameters(deeper) - matmul_parameters(model)
    scores = attention_flops_per_token(deeper, seq_len, causal=causal)
    scores -= attention_flops_per_token(model, seq_len, causal=causal)
    head = model.vocab * (model.embedding_dim or model.hidden)
    return 6.0 * (layer + 2 * model.hidden * model.hidden + head) + 3.0 * scores
