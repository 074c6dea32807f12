"""Attention: decode over a paged KV cache, latent attention, and prefill.

Decode reads the KV cache of every request once per step. With the context split over processors
(flash decoding), the time is a fixed launch, work per request, and the larger of reading and computing,
blended. Prefill computes query-key pairs in tiles, each on one processor: a tile takes the longer of its
matrix products and its softmax, begins and ends, is computed in full at the causal edge, and the longest ones
end when others have nothing left to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from windtunnel.cost.constants import DecodeConstants
from windtunnel.cost.device import Device
from windtunnel.operators.operator import Number

Floats = npt.NDArray[np.float64]
N = TypeVar("N", float, Floats)
"""A scalar for one shape, or arrays when many shapes are priced at once (the fits do)."""

QUERY_TILE = 16.0
"""Rows that a matrix instruction computes at least; grouped queries below it are padded."""
SPLIT_TOKENS, MOST_PARTS, SPLIT_WAVES = 128.0, 128.0, 2.0
"""Parts of a context have 64 to 128 keys at least and are 128 at most, until every processor has about two."""
PREFILL_TILE = 128.0
"""Queries of a prefill tile: 64 to 256 in FlashAttention's and FlashInfer's kernels, 128 in most."""
OVERLAP = 2.0
"""Exponent that blends a pair's matrix products and its softmax, which pipelined kernels overlap in part."""


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
        q_heads=q_heads,
        limited=q_heads <= kv_heads,
        splits=q_heads > kv_heads,
        device=device,
    )
    habits = device.constants.habits
    if not habits.unpacked_bytes_per_s or group in habits.packed_groups:
        return seconds
    # Products of one row per query head: what one head reads the next reads again, from the cache at best.
    read = np.asarray(context_tokens, dtype=np.float64) * (2.0 * q_heads * head_dim * kv_bytes)
    again = device.constants.decode.launch_s + read / (habits.unpacked_bytes_per_s * device.processors)
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
        q_heads=heads,
        limited=True,
        splits=True,
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
    q_heads: int | Floats,
    limited: bool | npt.NDArray[np.bool_],
    splits: bool | npt.NDArray[np.bool_],
    device: Device,
    constants: DecodeConstants | None = None,
) -> Floats:
    """Launch, work per request, and reading blended with computing; see the module's first lines.

    Args:
        requests, context_tokens: as in `decode_attention_seconds`.
        bytes_per_token, flops_per_token: of one cached token, all heads of the rank.
        heads, q_heads: KV heads and query heads of the rank.
        limited: whether the kernel spreads a request and KV head over `lanes` processors at most.
        splits: whether it splits contexts into parts and combines them.
        device: where it runs.
        constants: the kernel's; the device's decode constants if None.
    """
    count = np.asarray(requests, dtype=np.float64)
    context = np.asarray(context_tokens, dtype=np.float64)
    constants = constants or device.constants.decode
    each = np.maximum(count, 1.0)
    streams = each * heads
    slower = np.ones_like(streams)
    if constants.lanes:
        slower = np.where(limited, np.maximum(device.processors / (constants.lanes * streams), 1.0), slower)
    parts = np.minimum(np.minimum(context / each / SPLIT_TOKENS, MOST_PARTS), SPLIT_WAVES * device.processors / streams)
    combined = constants.split_s * parts + constants.combine_s * np.clip(parts - 1.0, 0.0, 1.0)
    regrouped = (each > 1) & (streams > each) & np.logical_not(limited)
    fixed = constants.launch_s + np.where(splits, combined, 0.0) + np.where(regrouped, constants.regroup_s, 0.0)
    memory = context * (bytes_per_token / (constants.memory_efficiency * device.bandwidth_bytes_per_s))
    compute = context * (flops_per_token / (constants.compute_efficiency * device.peak_flops_per_s("bf16")))
    work = slower * (memory**constants.blend + compute**constants.blend) ** (1.0 / constants.blend)
    per_request = (constants.request_s * heads + constants.head_s * q_heads) / device.processors
    return np.where(count > 0, fixed + per_request * count + work, 0.0)


@dataclass(frozen=True, slots=True)
class PrefillLine(Generic[N]):
    """Seconds of one layer's prefill attention on one rank, as coefficients of the sums over its chunks.

    Attributes:
        call: fixed.
        prompt: per chunk, for tiles that it fills in part.
        token: per new token.
        pair: per causal query-key pair.
        context: per KV token read.
        key: per key that a chunk's last tile meets: the rest of the device waits for a part of it.
    """

    call: float
    prompt: N
    token: N
    pair: N
    context: N
    key: N

    def seconds(self, requests: Number, tokens: Number, pairs: Number, context: Number, keys: Number) -> Floats:
        """Seconds for these sums (see `operators.batch.Batch`)."""
        work = self.token * tokens + self.pair * pairs + self.context * context
        return np.asarray(self.call + self.prompt * requests + work + self.key * keys)


def prefill_attention_line(
    *, q_heads: N, kv_heads: N, head_dim: N, v_head_dim: N, kv_bytes: float, device: Device, caches: bool = True
) -> PrefillLine[N]:
    """The coefficients of a layer's shape; `docs/background/cost-model.md` explains the terms.

    Args:
        q_heads, kv_heads: heads of this rank.
        head_dim, v_head_dim: widths of a query or key, and of a value.
        kv_bytes: bytes of one cached value.
        device: where it runs.
        caches: whether new keys and values are written to a paged cache; training keeps none.
    """
    constants, bandwidth = device.constants.prefill, device.bandwidth_bytes_per_s
    clocks_per_s = device.processors * device.accelerator.clock_hz
    matrix = 2.0 * (head_dim + v_head_dim) / (constants.compute_efficiency * device.peak_flops_per_s("bf16"))
    softmax = constants.score_cycles / clocks_per_s
    head_pair = (matrix**OVERLAP + softmax**OVERLAP) ** (1.0 / OVERLAP)
    pair = q_heads * (head_pair + constants.score_bytes / bandwidth)
    tile = q_heads * constants.tile_cycles / (PREFILL_TILE * clocks_per_s)
    kv = kv_heads * (head_dim + v_head_dim) * kv_bytes / bandwidth
    return PrefillLine(
        call=constants.launch_s,
        prompt=q_heads * (constants.prompt_cycles / clocks_per_s),
        token=pair * constants.tile_tokens + tile + (kv * constants.kv_passes if caches else 0.0),
        pair=pair,
        context=kv / device.constants.decode.memory_efficiency,
        key=head_pair * (constants.tail_share * PREFILL_TILE * device.processors),
    )
