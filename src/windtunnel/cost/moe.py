"""Mixture of experts: grouped products over the experts that a rank holds.

Of E experts, of which each token visits k, a batch of T tokens is expected to touch
E * (1 - (1 - k / E)^T) under uniform routing; only these read their weights. The tokens of an expert are
padded to tiles, and every row that is routed costs some time to gather, scatter and sum.

Kernels of narrow formats pad an expert's width on a rank, stored weights included, to a multiple that their blocks
of scales and their tiles need (`width_multiple`): an expert of 2,048 cut over 32 ranks is 64 wide and costs as 128.

Where the experts are spread over R ranks, all wait for the rank with the most rows. With m rows a rank on
average and l experts a rank, the rows of a rank vary by chance, as counts do, and because some experts are
visited more often than others (coefficient of variation c, `routing_skew`):

    load = 1 + sqrt(2 ln R) * sqrt((1 - 1 / R) * (1 / m + c^2 / l))

the expected largest of R draws over the mean; at most E / k, since a token visits an expert once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.cost.device import Device, stored_bytes

Floats = npt.NDArray[np.float64]
Number = float | Floats
"""A scalar, or an array that broadcasts against the tokens (the fits price many shapes at once)."""


def active_experts(tokens: npt.ArrayLike, experts: Number, experts_per_token: Number) -> Floats:
    """Expected number of distinct experts that a batch touches under uniform routing."""
    count = np.asarray(tokens, dtype=np.float64)
    miss = 1.0 - experts_per_token / experts
    return experts * (1.0 - miss**count)


def busiest_load(rows: Floats, experts: Number, local_experts: Number, skew: float) -> Floats:
    """Rows of the busiest of the ranks that share the experts, over the mean.

    Args:
        rows: mean rows of a rank, array.
        experts: routed experts of the layer.
        local_experts: experts of a rank.
        skew: coefficient of variation of how often experts are visited.
    """
    share = np.asarray(local_experts / experts, dtype=np.float64)
    variance = (1.0 - share) * (1.0 / np.maximum(rows, 1.0) + skew**2 / local_experts)
    return np.asarray(1.0 + np.sqrt(2.0 * np.log(1.0 / share) * variance))


def padded_rows(routed: npt.ArrayLike, active: npt.ArrayLike, tile_rows: Number) -> Floats:
    """Rows that are computed: each active expert's, padded by half a tile on average, at least one tile of 16 rows."""
    rows, experts = np.broadcast_arrays(np.asarray(routed, dtype=np.float64), np.asarray(active, dtype=np.float64))
    each = np.divide(rows, experts, out=np.zeros_like(rows), where=experts > 0)
    return np.asarray(experts * np.maximum(each + np.minimum(tile_rows, each) / 2.0, np.minimum(tile_rows, 16.0)))


def executed_flops(
    tokens: npt.ArrayLike,
    *,
    experts: Number,
    local_experts: Number,
    experts_per_token: Number,
    hidden: Number,
    local_ffn: Number,
    matrices: int,
    tile_rows: Number,
) -> Floats:
    """FLOPs that one rank's routed experts execute on average, padding included (arguments as of `moe_seconds`)."""
    count = np.asarray(tokens, dtype=np.float64)
    share = local_experts / experts
    active = active_experts(count, experts, experts_per_token) * share
    return 2.0 * padded_rows(count * experts_per_token * share, active, tile_rows) * matrices * hidden * local_ffn


def moe_seconds(
    tokens: npt.ArrayLike,
    *,
    experts: Number,
    local_experts: Number,
    experts_per_token: Number,
    hidden: Number,
    local_ffn: Number,
    matrices: int,
    device: Device,
    weight_dtype: str = "bf16",
    compute_dtype: str = "bf16",
    active: Floats | None = None,
) -> Floats:
    """Seconds of one MoE layer's routed experts on one rank.

    Args:
        tokens: tokens of the step, all of which may visit this rank's experts, array.
        experts: routed experts of the layer.
        local_experts: experts this rank holds (experts / EP).
        experts_per_token: routed experts per token.
        hidden: model width.
        local_ffn: intermediate width of an expert on this rank (expert_ffn / TP within an expert).
        matrices: 3 when gated, else 2.
        device: where it runs.
        weight_dtype, compute_dtype: number formats.
        active: distinct experts of the layer that the tokens touch, where that is known; None: uniform routing.
    """
    count = np.asarray(tokens, dtype=np.float64)
    constants = device.constants.moe_of(weight_dtype, compute_dtype)
    share = local_experts / experts
    load = busiest_load(count * experts_per_token * share, experts, local_experts, device.constants.routing_skew)
    load = np.minimum(load, np.maximum(experts / experts_per_token, 1.0))
    touched = active_experts(count, experts, experts_per_token) if active is None else active
    here = np.minimum(touched * share * load, local_experts)
    width = np.ceil(np.asarray(local_ffn) / constants.width_multiple) * constants.width_multiple
    routed = count * experts_per_token * share * load
    flops = 2.0 * padded_rows(routed, here, constants.tile_rows) * matrices * hidden * width
    rate = constants.compute_efficiency * device.peak_flops_per_s(compute_dtype)
    weights = here * matrices * hidden * width * stored_bytes(weight_dtype)
    activations = routed * (2.0 * hidden + 3.0 * width) * 2.0
    moved = (weights + activations) / (constants.memory_efficiency * device.bandwidth_bytes_per_s)
    compute = flops / rate
    large, small = np.maximum(compute, moved), np.minimum(compute, moved)
    ratio = np.divide(small, large, out=np.zeros_like(large), where=large > 0)
    work = large * (1.0 + ratio**constants.blend) ** (1.0 / constants.blend)
    return np.where(count > 0, constants.launch_s + constants.row_s * routed + work, 0.0)


def moe_limit_seconds(
    tokens: npt.ArrayLike,
    *,
    experts: Number,
    local_experts: Number,
    experts_per_token: Number,
    hidden: Number,
    local_ffn: Number,
    matrices: int,
    device: Device,
    weight_dtype: str = "bf16",
    compute_dtype: str = "bf16",
) -> Floats:
    """Speed of light of `moe_seconds`: no padding, no skew, peak rate, full bandwidth."""
    count = np.asarray(tokens, dtype=np.float64)
    share = local_experts / experts
    active = active_experts(count, experts, experts_per_token) * share
    flops = 2.0 * count * experts_per_token * share * matrices * hidden * local_ffn
    weights = active * matrices * hidden * local_ffn * stored_bytes(weight_dtype)
    return np.maximum(flops / device.peak_flops_per_s(compute_dtype), weights / device.bandwidth_bytes_per_s)
