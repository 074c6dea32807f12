"""Attention over the KV cache: decode and prefill, grouped-query and latent."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeAttention(Operator):
    """One query token per request against its cached keys and values (grouped-query attention)."""

    requests: Number
    context_tokens: Number
    q_heads: int
    kv_heads: int
    head_dim: int
    kv_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentDecodeAttention(Operator):
    """One query token per request against the cached latents (absorbed multi-head latent attention)."""

    requests: Number
    context_tokens: Number
    heads: int
    latent_dim: int
    rope_dim: int
    kv_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillAttention(Operator):
    """Chunks of prompts, causally, against what is cached and themselves.

    Attributes:
        requests: chunks.
        tokens, pairs, context_tokens: sums over them (see `Batch`).
        keys: keys that the queries of one chunk's last tile meet.
    """

    requests: Number
    tokens: Number
    pairs: Number
    context_tokens: Number
    keys: Number
    q_heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    kv_bytes: float


def decode_attention(
    name: str,
    part: Part,
    count: float,
    requests: Number,
    context_tokens: Number,
    *,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    kv_bytes: float,
) -> DecodeAttention:
    """4 * heads * head_dim FLOPs per cached token (scores and values); keys and values read once."""
    cached = 2.0 * kv_heads * head_dim * kv_bytes * context_tokens
    vectors = q_heads * head_dim * ACTIVATION_BYTES * requests
    return DecodeAttention(
        name=name,
        part=part,
        count=count,
        flops=4.0 * q_heads * head_dim * context_tokens,
        stored_bytes=cached,
        read_bytes=cached + vectors,
        write_bytes=vectors,
        requests=requests,
        context_tokens=context_tokens,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        kv_bytes=kv_bytes,
    )


def latent_decode_attention(
    name: str,
    part: Part,
    count: float,
    requests: Number,
    context_tokens: Number,
    *,
    heads: int,
    latent_dim: int,
    rope_dim: int,
    kv_bytes: float,
) -> LatentDecodeAttention:
    """Scores over latent + rotary width, values over the latent; the latent is read once for all heads."""
    cached = (latent_dim + rope_dim) * kv_bytes * context_tokens
    return LatentDecodeAttention(
        name=name,
        part=part,
        count=count,
        flops=2.0 * heads * (2 * latent_dim + rope_dim) * context_tokens,
        stored_bytes=cached,
        read_bytes=cached + heads * (latent_dim + rope_dim) * ACTIVATION_BYTES * requests,
        write_bytes=heads * latent_dim * ACTIVATION_BYTES * requests,
        requests=requests,
        context_tokens=context_tokens,
        heads=heads,
        latent_dim=latent_dim,
        rope_dim=rope_dim,
        kv_bytes=kv_bytes,
    )


def prefill_attention(
    name: str,
    count: float,
    requests: Number,
    tokens: Number,
    pairs: Number,
    context_tokens: Number,
    keys: Number,
    *,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    v_head_dim: int,
    kv_bytes: float,
) -> PrefillAttention:
    """2 * heads * (head_dim + v_head_dim) FLOPs per query-key pair; keys and values read once per chunk.

    A windowed layer passes its windowed pairs and no context tokens: it reads at most a window
    more than the chunk's own keys, which its pairs stand for.
    """
    cached = kv_heads * (head_dim + v_head_dim) * kv_bytes * context_tokens
    return PrefillAttention(
        name=name,
        part="prefill",
        count=count,
        flops=2.0 * q_heads * (head_dim + v_head_dim) * pairs,
        stored_bytes=cached,
        read_bytes=cached + q_heads * head_dim * ACTIVATION_BYTES * tokens,
        write_bytes=q_heads * v_head_dim * ACTIVATION_BYTES * tokens,
        requests=requests,
        tokens=tokens,
        pairs=pairs,
        context_tokens=context_tokens,
        keys=keys,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        kv_bytes=kv_bytes,
    )
