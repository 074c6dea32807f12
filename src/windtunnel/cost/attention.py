"""Attention: decode over a paged KV cache, latent attention, and prefill.

Decode reads the KV cache of every request once per step. With the context split over processors
(flash decoding), the time is a fixed launch, work per request, and the larger of reading and computing,
blended. Prefill computes query-key pairs in tiles; a tile at the causal edge is computed in full, which
costs each query some pairs more.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from windtunnel.cost.constants import DecodeConstants
from windtunnel.cost.device import Device

Floats = npt.NDArray[np.float64]
N = TypeVar("N", float, Floats)
"""A scalar for one shape, or arrays when many shapes are priced at once (the fits do)."""

QUERY_TILE = 16.0
"""Rows that a matrix instruction computes at least; grouped queries below it are padded."""


def decode_attention_seconds(
    requests: npt.ArrayLike,
    context_tokens: npt.ArrayLike,
    *,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    kv_bytes: float,
    device: Device,
) -> Floats:
    """Seconds of one layer's decode attention on one rank.

    Args:
        requests: decoding requests, array.
        context_tokens: KV tokens attended, summed over the requests, array of the same shape.
        q_heads, kv_heads: heads of this rank.
        head_dim: width of a head.
        kv_bytes: bytes of one cached value.
        device: where it runs.
    """
    group = max(q_heads / kv_heads, 1.0)
    padded = max(group, QUERY_TILE) * kv_heads
    seconds = decode_work_seconds(
        requests,
        context_tokens,
        bytes_per_token=2.0 * kv_heads * head_dim * kv_bytes,
        flops_per_token=4.0 * padded * head_dim,
        heads=kv_heads,
        device=device,
    )
    habits = device.constants.habits
    if not habits.kv_per_query_head:
        return seconds
    # Products of one row per query head: what one head reads the next reads again, from the cache at best.
    read = np.asarray(context_tokens, dtype=np.float64) * (2.0 * q_heads * head_dim * kv_bytes)
    again = device.constants.decode.launch_s + read / (habits.load_bytes_per_s * device.processors)
    return np.maximum(seconds, np.where(seconds > 0, again, 0.0))


def decode_mla_seconds(
    requests: npt.ArrayLike,
    context_tokens: npt.ArrayLike,
    *,
    heads: int,
    latent_dim: int,
    rope_dim: int,
    kv_bytes: float,
    device: Device,
) -> Floats:
    """Seconds of one layer's absorbed latent-attention decode on one rank (DeepSeek-V2, section 2.1.2).

    Every head attends the same latent of latent_dim + rope_dim values per token and reads it once.
    """
    return decode_work_seconds(
        requests,
        context_tokens,
        bytes_per_token=(latent_dim + rope_dim) * kv_bytes,
        flops_per_token=2.0 * max(heads, QUERY_TILE) * (2.0 * latent_dim + rope_dim),
        heads=1,
        device=device,
        constants=device.constants.latent,
    )


def decode_work_seconds(
    requests: npt.ArrayLike,
    context_tokens: npt.ArrayLike,
    *,
    bytes_per_token: float | Floats,
    flops_per_token: float | Floats,
    heads: int | Floats,
    device: Device,
    constants: DecodeConstants | None = None,
) -> Floats:
    """Launch, work per request, and reading blended with computing; see the module's first lines."""
    count = np.asarray(requests, dtype=np.float64)
    context = np.asarray(context_tokens, dtype=np.float64)
    constants = constants or device.constants.decode
    memory = context * (bytes_per_token / (constants.memory_efficiency * device.bandwidth_bytes_per_s))
    compute = context * (flops_per_token / (constants.compute_efficiency * device.peak_flops_per_s("bf16")))
    work = (memory**constants.blend + compute**constants.blend) ** (1.0 / constants.blend)
    per_request = constants.request_s * heads / device.processors
    return np.where(count > 0, constants.launch_s + per_request * count + work, 0.0)


def prefill_attention_coefficients(
    *, q_heads: N, kv_heads: N, head_dim: N, v_head_dim: N, kv_bytes: float, device: Device
) -> tuple[float, N, N, N]:
    """(per call, per token, per query-key pair, per context token read) seconds of one layer on one rank.

    seconds = per_call + per_token * tokens + per_pair * pairs + per_context_token * context, where pairs
    counts the causal query-key pairs and context the KV tokens read for all chunks.
    """
    constants = device.constants.prefill
    flops_per_pair = 2.0 * q_heads * (head_dim + v_head_dim)
    per_pair = flops_per_pair / (constants.compute_efficiency * device.peak_flops_per_s("bf16"))
    per_pair = per_pair + constants.score_bytes * q_heads / device.bandwidth_bytes_per_s
    stream = constants.stream_passes * 2.0 * q_heads * (head_dim + v_head_dim) / device.bandwidth_bytes_per_s
    kv_values = kv_heads * (head_dim + v_head_dim)
    read = kv_values * kv_bytes / (device.constants.decode.memory_efficiency * device.bandwidth_bytes_per_s)
    per_token: N = per_pair * constants.tile_tokens + stream
    return constants.launch_s, per_token, per_pair, read
