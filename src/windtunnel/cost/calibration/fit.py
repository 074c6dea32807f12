"""Robust regression of each operator class's constants on a training split of measured shapes.

The residual is the logarithm of predicted over measured time, with a soft L1 loss, so that a factor of two
counts the same above and below and outliers do not steer the fit. Errors are reported on rows that the fit
did not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.cost import attention, gemm, moe
from windtunnel.cost.calibration.tables import Columns, split
from windtunnel.cost.collective import Link, all_reduce_seconds
from windtunnel.cost.constants import (
    CollectiveConstants,
    DecodeConstants,
    GemmConstants,
    KernelConstants,
    MoeConstants,
    PrefillConstants,
)
from windtunnel.cost.device import Device, stored_bytes
from windtunnel.cost.gemm import ACTIVATION_BYTES

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Constants of one operator class and how far they are off on held-out rows.

    Attributes:
        values: the constants as the regression's vector.
        samples: rows of the table.
        median_error, p90_error, bias: of predicted over measured on the held-out rows.
        interval: 10 % and 90 % quantiles there of measured over predicted.
        predict: seconds of some rows on this device under any constants.
        measured_s: seconds of all rows.
        form: what the constants mean where an operator class has several vectors of them.
    """

    values: tuple[float, ...]
    samples: int
    median_error: float
    p90_error: float
    bias: float
    interval: tuple[float, float]
    predict: Callable[[Floats, npt.NDArray[np.int64]], Floats]
    measured_s: Floats
    form: str = ""


def regress(
    predict: Callable[[Floats, npt.NDArray[np.int64]], Floats],
    measured_s: Floats,
    start: list[float],
    low: list[float],
    high: list[float],
    train_rows: int = 2500,
    form: str = "",
) -> Fit:
    """Fit `predict(constants, rows)` to measured seconds; errors on the held-out rows."""
    from scipy.optimize import least_squares

    train, held = split(len(measured_s), train_rows)

    def residual(x: Floats) -> Floats:
        return np.log(predict(x, train) / measured_s[train])

    found = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, diff_step=1e-3)
    ratio = predict(found.x, held) / measured_s[held]
    error = ratio - 1.0
    return Fit(
        values=tuple(float(v) for v in found.x),
        samples=len(measured_s),
        median_error=float(np.median(np.abs(error))),
        p90_error=float(np.quantile(np.abs(error), 0.9)),
        bias=float(np.median(error)),
        interval=(float(np.quantile(1.0 / ratio, 0.1)), float(np.quantile(1.0 / ratio, 0.9))),
        predict=predict,
        measured_s=measured_s,
        form=form,
    )


def _with(device: Device, **constants: object) -> Device:
    changed: KernelConstants = device.constants.model_copy(update=constants)
    return Device(device.accelerator, changed, device.provenance)


def gemm_constants(x: Floats, by_rows: bool = False) -> GemmConstants:
    """Constants from the regression's vector: seven, and three more where kernels are for narrow formats."""
    more = {} if len(x) == 7 else {"idle_gain": float(x[7]), "quantise_passes": float(x[8])}
    return GemmConstants(
        compute_efficiency=min(float(x[0]), 1.0),
        memory_efficiency=min(float(x[1]), 1.0),
        launch_s=float(x[2]) * 1e-6,
        fill_depth=float(x[3]) * 100.0,
        blend=float(x[4]),
        latency_depth_s=float(x[5]) * 1e-6,
        wave_sharing=float(x[6]),
        tiles_by_rows=by_rows,
        splits_depth=not by_rows,
        **more,
    )


def fit_gemm(columns: Columns, device: Device, dtype: str, by_rows: bool = False) -> Fit:
    """Dense products: m, n, k, latency in milliseconds; in narrow formats with the activations' quantisation.

    `by_rows` says that the kernels fix their tile by the rows alone and never split the reduction.
    """
    m, n, k = (columns[name].astype(np.float64) for name in "mnk")
    measured = columns["latency"] * 1e-3

    def predict(x: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        trial = _with(device, gemm={dtype: gemm_constants(x, by_rows)})
        return gemm.gemm_seconds(m[rows], n[rows], k[rows], trial, dtype, dtype)

    start, low = [0.75, 0.8, 3.0, 2.0, 3.0, 0.5, 0.5], [0.1, 0.2, 0.1, 0.0, 0.8, 0.0, 0.0]
    high = [1.0, 1.0, 60.0, 30.0, 12.0, 10.0, 1.0]
    if stored_bytes(dtype) < ACTIVATION_BYTES:
        start, low, high = [*start, 0.2, 1.5], [*low, 0.0, 0.0], [*high, 1.0, 10.0]
    return regress(predict, measured, start, low, high)


def decode_constants(x: Floats) -> DecodeConstants:
    """Constants from the regression's vector."""
    return DecodeConstants(
        memory_efficiency=min(float(x[0]), 1.0),
        compute_efficiency=min(float(x[1]), 1.0),
        launch_s=float(x[2]) * 1e-6,
        request_s=float(x[3]) * 1e-6,
        blend=float(x[4]),
        head_s=float(x[5]) * 1e-6,
        split_s=float(x[6]) * 1e-6,
        combine_s=float(x[7]) * 1e-6,
        regroup_s=float(x[8]) * 1e-6,
        lanes=float(x[9]),
    )


DECODE_START = [0.85, 0.5, 6.0, 2.0, 2.0, 0.05, 0.1, 1.0, 1.0, 3.0, 0.8, 2.0]
DECODE_LOW = [0.2, 0.02, 0.5, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.2, 0.05, 1.0]
DECODE_HIGH = [1.0, 1.0, 60.0, 80.0, 10.0, 20.0, 5.0, 60.0, 60.0, 256.0, 3.0, 12.0]
"""The regression's vector: `decode_constants`, then what `cached` takes."""


def cached(x: Floats, read_bytes: Floats, device: Device) -> Floats:
    """Seconds of reading relative to memory's alone, where the same data were read again and again.

    The tables' kernels run repeatedly on the same keys and values, which the L2 holds when they are few. In a model
    a layer's have been driven out by the others' when they are read again: the fit allows for this, the cost model
    does not.

    Args:
        x: the regression's vector; its last two say how much of the L2 keeps it, and how much faster it is read.
        read_bytes: of one launch.
        device: where it ran.
    """
    held = x[-2] * (device.accelerator.l2_cache_bytes or 1.0)
    hit = np.clip(2.0 - read_bytes / held, 0.0, 1.0)
    return np.asarray(1.0 - hit * (1.0 - 1.0 / x[-1]))


def fit_decode(columns: Columns, device: Device) -> Fit:
    """Decode attention: batch_size, isl + step context each, heads, head_dim; bf16 cache."""
    batch, isl, step, heads, kv, dim = (
        columns[name].astype(np.float64)
        for name in ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")
    )
    context = batch * (isl + step)
    kv = np.where(kv > 0, kv, heads)
    measured = columns["latency"] * 1e-3

    def predict(x: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        padded = np.maximum(heads[rows] / kv[rows], attention.QUERY_TILE) * kv[rows]
        each = 4.0 * kv[rows] * dim[rows]
        return attention.decode_work_seconds(
            batch[rows],
            context[rows],
            bytes_per_token=each * cached(x, each * context[rows], device),
            flops_per_token=4.0 * padded * dim[rows],
            heads=kv[rows],
            q_heads=heads[rows],
            limited=heads[rows] <= kv[rows],
            splits=heads[rows] > kv[rows],
            device=_with(device, decode=decode_constants(x)),
        )

    return regress(predict, measured, DECODE_START, DECODE_LOW, DECODE_HIGH)


def with_decode(device: Device, found: Fit | None) -> Device:
    """The device with fitted decode constants, whose share of the bandwidth prefill reads the cache at."""
    return device if found is None else _with(device, decode=decode_constants(np.asarray(found.values)))


def latent_constants(x: Floats) -> DecodeConstants:
    """Constants from the regression's vector; one latent for all heads needs no regrouping."""
    return decode_constants(x).model_copy(update={"regroup_s": 0.0})


LATENT, ROPE = 512, 64
"""Widths of the measured latent cache, DeepSeek's."""


def fit_latent(columns: Columns, device: Device) -> Fit:
    """Decode attention over a latent cache: batch_size, isl + step context each, heads of a rank; bf16 cache."""
    batch, isl, step, heads = (columns[name].astype(np.float64) for name in ("batch_size", "isl", "step", "num_heads"))
    context = batch * (isl + step)
    measured = columns["latency"] * 1e-3

    def predict(x: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        each = 2.0 * (LATENT + ROPE)
        return attention.decode_work_seconds(
            batch[rows],
            context[rows],
            bytes_per_token=each * cached(x, each * context[rows], device),
            flops_per_token=2.0 * np.maximum(heads[rows], attention.QUERY_TILE) * (2.0 * LATENT + ROPE),
            heads=1,
            q_heads=heads[rows],
            limited=True,
            splits=True,
            device=device,
            constants=latent_constants(x),
        )

    return regress(predict, measured, DECODE_START, DECODE_LOW, DECODE_HIGH)


def prefill_constants(x: Floats) -> PrefillConstants:
    """Constants from the regression's vector."""
    return PrefillConstants(
        compute_efficiency=min(float(x[0]), 1.0),
        launch_s=float(x[1]) * 1e-6,
        tile_tokens=attention.PREFILL_TILE / 2.0,
        score_cycles=float(x[2]),
        tile_cycles=float(x[3]) * 1e3,
        prompt_cycles=float(x[4]) * 1e3,
        tail_share=float(x[5]),
        kv_passes=float(x[6]),
    )


def fit_prefill(columns: Columns, device: Device) -> Fit:
    """Prefill attention: batch_size prompts of isl new tokens after `step` cached ones.

    Prompts of one token are left out: engines run them as decoding requests, by other kernels.
    """
    batch, isl, step, heads, kv, dim, latency = (
        columns[name].astype(np.float64)[columns["isl"] > 1]
        for name in ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency")
    )
    kv = np.where(kv > 0, kv, heads)
    tokens, pairs, context = batch * isl, batch * (isl * step + isl * (isl + 1) / 2), batch * (isl + step)

    def predict(x: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        line = attention.prefill_attention_line(
            q_heads=heads[rows],
            kv_heads=kv[rows],
            head_dim=dim[rows],
            v_head_dim=dim[rows],
            kv_bytes=2.0,
            device=_with(device, prefill=prefill_constants(x)),
        )
        return line.seconds(batch[rows], tokens[rows], pairs[rows], context[rows], (isl + step)[rows])

    low, high = [0.05, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 100.0, 1.0, 50.0, 50.0, 10.0, 20.0]
    return regress(predict, latency * 1e-3, [0.65, 8.0, 0.1, 3.0, 4.0, 0.5, 3.0], low, high)


def moe_constants(x: Floats, width_multiple: int = 1) -> MoeConstants:
    """Constants from the regression's vector."""
    return MoeConstants(
        compute_efficiency=min(float(x[0]), 1.0),
        memory_efficiency=min(float(x[1]), 1.0),
        launch_s=float(x[2]) * 1e-6,
        tile_rows=float(x[3]),
        blend=float(x[4]),
        row_s=float(x[5]) * 1e-9,
        width_multiple=width_multiple,
    )


def touched_experts(tokens: Floats, experts: Floats, topk: Floats) -> Floats:
    """Experts that the tables' tokens touch, which are dealt out by a power law of exponent 1.01 and rounded.

    An expert's share is all but log-uniform, from 1 to 0.8 of the tokens where there are more visits than experts and
    from 0.01 to 2 where there are fewer; experts with less than half a token get none, and what is left over
    goes to the largest (`power_law_logits_v3` of aiconfigurator's collector).
    """
    visits = tokens * topk
    ratio = np.where(visits > experts, np.maximum(0.8 * tokens, 1.5), 200.0)
    largest = visits / experts * ratio * np.log(ratio) / (ratio - 1.0)
    with_some = np.minimum(np.log(np.maximum(2.0 * largest, 1.0)) / np.log(ratio), 1.0)
    most = np.minimum(visits, experts)
    return np.clip(experts * with_some, np.minimum(most, topk), most)


def fit_moe(columns: Columns, device: Device, weight_dtype: str, compute_dtype: str, width_multiple: int = 1) -> Fit:
    """Grouped products of a rank that holds every expert: tokens, hidden, inter, top-k, experts, TP degree."""
    tokens, hidden, inter, topk, experts, tp = (
        columns[name].astype(np.float64)
        for name in ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size")
    )
    touched = touched_experts(tokens, experts, topk)
    measured = columns["latency"] * 1e-3

    def predict(x: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        return moe.moe_seconds(
            tokens[rows],
            experts=experts[rows],
            local_experts=experts[rows],
            experts_per_token=topk[rows],
            hidden=hidden[rows],
            local_ffn=inter[rows] / tp[rows],
            matrices=3,
            device=_with(device, moe=moe_constants(x, width_multiple), moe_narrow={}),
            weight_dtype=weight_dtype,
            compute_dtype=compute_dtype,
            active=touched[rows],
        )

    low, high = [0.02, 0.05, 1.0, 8.0, 1.0, 0.0], [1.0, 1.0, 400.0, 256.0, 10.0, 50.0]
    return regress(predict, measured, [0.5, 0.7, 30, 64, 3, 0.5], low, high)


TRAY_RANKS = 4
"""GPUs of a host in GB200 and GB300 NVL72 racks (NVIDIA's datasheets: a compute tray)."""
FABRIC, RACK, OVER_HOST = "fabric", "rack", "over host"
"""Ways that the ranks of a node are joined: one fabric, one fabric over several hosts, the host's bus."""


def collective_constants(x: Floats, form: str = FABRIC) -> CollectiveConstants:
    """Constants from the regression's vector: four, and what the way the ranks are joined adds."""
    common = {
        "one_shot_s": float(x[0]) * 1e-6,
        "peer_s": float(x[1]) * 1e-6,
        "ring_s": float(x[2]) * 1e-6,
        "efficiency": min(float(x[3]), 1.0),
    }
    if form == OVER_HOST:
        return CollectiveConstants(**common, contention=float(x[4]), over_host=True)
    common["own_share"] = min(float(x[4]), 1.0)
    if form == RACK:
        beyond = {"switch_s": float(x[5]) * 1e-6, "hop_s": float(x[6]) * 1e-6}
        return CollectiveConstants(**common, near_ranks=TRAY_RANKS, **beyond)
    return CollectiveConstants(**common)


def fit_all_reduce(columns: Columns, device: Device, rate_bytes_per_s: float, form: str = FABRIC) -> Fit:
    """All-reduce inside a node: message_size in values of two bytes, ranks, latency in milliseconds.

    Over the host's bus the share of the rate may fall with the number of cards; in a rack of hosts that share a
    fabric other algorithms serve the ranks of several.
    """
    size = columns["message_size"].astype(np.float64) * 2.0
    ranks = columns["num_gpus"].astype(np.int64)
    measured = columns["latency"] * 1e-3

    def predict(x: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        link = Link("", rate_bytes_per_s, collective_constants(x, form), int(ranks.max()))
        found = np.empty(len(rows))
        for count in np.unique(ranks[rows]):
            of_size = ranks[rows] == count
            found[of_size] = all_reduce_seconds(size[rows][of_size], int(count), link)
        return found

    start, low, high = [5.0, 0.3, 10.0, 0.8, 0.5], [0.5, 0.0, 0.5, 0.05, 0.0], [60.0, 10.0, 200.0, 1.0, 3.0]
    if form != OVER_HOST:
        start[2], low[4], high[4] = 25.0, 0.05, 1.0
    if form == RACK:
        start, low, high = [*start, 15.0, 1.5], [*low, 0.5, 0.05], [*high, 200.0, 20.0]
    return regress(predict, measured, start, low, high, form=form)
