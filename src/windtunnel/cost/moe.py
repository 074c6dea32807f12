"""Mixture of experts: grouped products over the experts that a rank holds.

Of E experts, of which each token visits k, a batch of T tokens is expected to touch
E * (1 - (1 - k / E)^T) under uniform routing; only these read their weights. The tokens of an expert are
padded to tiles. Routing is uneven: the busiest expert decides when a wave ends, which the constant `skew`
carries.
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
    """
    count = np.asarray(tokens, dtype=np.float64)
    constants = device.constants.moe
    share = local_experts / experts
    active = active_experts(count, experts, experts_per_token) * share
    routed = count * experts_per_token * share
    # Rows computed: each active expert's tokens, padded on average by half a tile, at least one tile of 16 rows.
    smallest = np.minimum(constants.tile_rows, 16.0)
    per_expert = np.divide(routed, active, out=np.zeros_like(routed), where=active > 0)
    padded = active * np.maximum(per_expert + np.minimum(constants.tile_rows, per_expert) / 2.0, smallest)
    flops = 2.0 * padded * matrices * hidden * local_ffn * (1.0 + constants.skew)
    rate = constants.compute_efficiency * device.peak_flops_per_s(compute_dtype)
    weights = active * matrices * hidden * local_ffn * stored_bytes(weight_dtype)
    activations = routed * (2.0 * hidden + 3.0 * local_ffn) * 2.0
    moved = (weights + activations) / (constants.memory_efficiency * device.bandwidth_bytes_per_s)
    compute = flops / rate
    work = np.cbrt(compute**3 + moved**3)
    return np.where(count > 0, constants.launch_s + work, 0.0)


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
