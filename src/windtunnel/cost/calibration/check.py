"""What is wrong with a folder of measured kernel tables, before any constant is fitted to it.

Checked are the tables that the calibration reads: their columns, signs, contradicting repetitions, the device
that they name, and their unit: a table whose larger kernels are, in the median, faster than the hardware can
be, or hundreds of times slower, is off by a factor of a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from windtunnel.cost.calibration.tables import Columns
from windtunnel.cost.measured.check import THOUSAND, TOO_FAST, TOO_SLOW
from windtunnel.errors import Problem
from windtunnel.specs.hardware import AcceleratorSpec

Floats = npt.NDArray[np.float64]
CONTRADICTION = 3.0
"""Repetitions of one shape (other kernels, other days) further apart than this contradict each other."""
CONTRADICTING_SHARE = 0.02
"""Share of the shapes that may: automatic tuning picks another kernel now and then."""
FEW = 10
"""Rows that say nothing about a unit: one of the smallest kernel is all launch."""
COMMON = ("framework", "version", "device", "op_name", "kernel_source", "latency", "power", "power_limit")
ATTENTION = (
    "batch_size",
    "isl",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "beam_width",
    "attn_dtype",
    "kv_cache_dtype",
    "step",
    "window_size",
)
MLA = ("batch_size", "isl", "num_heads", "tp_size", "mla_dtype", "kv_cache_dtype", "step")
MOE = (
    "moe_dtype",
    "num_tokens",
    "hidden_size",
    "inter_size",
    "topk",
    "num_experts",
    "moe_tp_size",
    "moe_ep_size",
    "distribution",
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of table.

    Attributes:
        shape: columns that make a row's shape, number formats included.
        optional: further columns that may be there.
        needed: columns without which nothing can be fitted.
    """

    shape: tuple[str, ...]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "gemm_perf.parquet": Kind(("gemm_dtype", "m", "n", "k"), ("m", "n", "k")),
    "generation_attention_perf.parquet": Kind(ATTENTION, ("batch_size", "isl", "step", "num_heads", "head_dim")),
    "generation_mla_perf.parquet": Kind(MLA, ("batch_size", "isl", "step", "num_heads")),
    "context_attention_perf.parquet": Kind(ATTENTION, ("batch_size", "isl", "num_heads", "head_dim")),
    "moe_perf.parquet": Kind(MOE, MOE, ("power_law_alpha",)),
    "custom_allreduce_perf.parquet": Kind(
        ("allreduce_dtype", "num_gpus", "message_size"),
        ("num_gpus", "message_size"),
        ("backend", "implementation", "nccl_dtype"),
    ),
}


def problems_of(path: Path, columns: Columns, accelerator: AcceleratorSpec) -> list[Problem]:
    """What is wrong with one table, whose file is named as in `KINDS`."""
    kind = KINDS[path.name]
    found = _headers(path, list(columns), kind)
    if found:
        return found
    found = [*_device(path, columns, accelerator), *_signs(path, columns, kind)]
    if found:
        return found
    return [*_repeated(path, columns, kind), *_unit(path, columns, accelerator)]


def _headers(path: Path, header: Sequence[str], kind: Kind) -> list[Problem]:
    known = {*COMMON, *kind.shape, *kind.optional}
    missing = [name for name in (*kind.needed, "latency") if name not in header]
    unknown = [name for name in header if name not in known]
    return [
        *(Problem("column is missing", str(path), name) for name in missing),
        *(Problem("unknown column", str(path), name, allowed=", ".join(sorted(known))) for name in unknown),
    ]


def _device(path: Path, columns: Columns, accelerator: AcceleratorSpec) -> list[Problem]:
    """Another device's table; names such as `NVIDIA H100 80GB HBM3` hold the catalogue's first word."""
    if "device" not in columns:
        return []
    word = accelerator.name.split("-")[0]
    word = "rtx pro 6000" if accelerator.name.startswith("rtx-pro-6000") else word
    named = sorted({str(name) for name in np.unique(columns["device"])})
    wrong = [name for name in named if word not in name.lower().replace("-", " ")]
    return [Problem("measured on another device", str(path), "device", name, accelerator.name) for name in wrong]


def _signs(path: Path, columns: Columns, kind: Kind) -> list[Problem]:
    found = []
    for name in ("latency", *kind.shape):
        if name not in columns or columns[name].dtype.kind not in "iuf":
            continue
        values = columns[name].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values) | (values < 0))
        if len(bad):
            message = f"must be a number at least 0 ({len(bad)} rows are not)"
            found.append(Problem(message, f"{path}: row {bad[0]}", name, repr(float(values[bad[0]]))))
    return found


def _repeated(path: Path, columns: Columns, kind: Kind) -> list[Problem]:
    """Contradicting repetitions: the same shape, format and kernel with times far apart."""
    names = [name for name in (*kind.shape, "kernel_source", "version") if name in columns]
    codes = np.stack([np.unique(columns[name], return_inverse=True)[1] for name in names])
    _, group = np.unique(codes, axis=1, return_inverse=True)
    latency = columns["latency"].astype(np.float64)
    most, least = np.zeros(group.max() + 1), np.full(group.max() + 1, np.inf)
    np.maximum.at(most, group.ravel(), latency)
    np.minimum.at(least, group.ravel(), np.where(latency > 0, latency, np.inf))
    apart = most > CONTRADICTION * least
    if apart.sum() <= CONTRADICTING_SHARE * len(most):
        return []
    worst = int(np.argmax(np.where(apart, most / least, 0.0)))
    row = int(np.flatnonzero(group.ravel() == worst)[0])
    shape = ", ".join(f"{name} {columns[name][row]}" for name in names)
    message = f"{apart.sum():,} shapes were measured more than once with contradicting times, such as {shape}"
    return [Problem(message, str(path), "latency", f"{least[worst]:.4g} and {most[worst]:.4g} ms")]


def _unit(path: Path, columns: Columns, accelerator: AcceleratorSpec) -> list[Problem]:
    limit = _limit_s(path.name, columns, accelerator)
    seconds = columns["latency"].astype(np.float64) * 1e-3
    known = (limit > 0) & (seconds > 0)
    if known.sum() < FEW:
        return []
    large = known & (limit >= np.quantile(limit[known], 0.9))
    ratio = float(np.median(seconds[large] / limit[large]))
    if TOO_FAST <= ratio <= TOO_SLOW:
        return []
    way = "faster than the hardware can be" if ratio < TOO_FAST else "slower than any kernel"
    off = "a factor of 1,000 or so" if ratio < 20.0 / THOUSAND or ratio > TOO_SLOW else f"a factor of {1.0 / ratio:.3g}"
    return [Problem(f"larger kernels are {way} by {off}; is the unit milliseconds?", str(path), "latency")]


def _limit_s(name: str, columns: Columns, accelerator: AcceleratorSpec) -> Floats:
    """Speed of light of each row in 16-bit arithmetic; a narrower format is at most four times as fast."""
    peak = max(accelerator.peak_flops_per_s.values())
    bandwidth = accelerator.memory_bandwidth_bytes_per_s

    def of(column: str) -> Floats:
        return np.asarray(columns[column], dtype=np.float64)

    if name.startswith("gemm"):
        return 2.0 * of("m") * of("n") * of("k") / peak
    if name.startswith("moe"):
        share = 6.0 / (of("moe_tp_size") * of("moe_ep_size"))
        return share * of("num_tokens") * of("topk") * of("hidden_size") * of("inter_size") / peak
    if name.startswith("context"):
        flops = 2.0 * of("batch_size") * of("isl") ** 2 * of("num_heads") * of("head_dim")
        return np.where(of("window_size") > 0, 0.0, flops / peak) if "window_size" in columns else flops / peak
    if name.startswith("generation_attention"):
        kv = of("num_key_value_heads") if "num_key_value_heads" in columns else of("num_heads")
        kv = np.where(kv > 0, kv, of("num_heads"))
        context = of("isl") + of("step")
        if "window_size" in columns:
            context = np.where(of("window_size") > 0, np.minimum(context, of("window_size")), context)
        return 2.0 * of("batch_size") * context * kv * of("head_dim") / bandwidth
    return np.zeros(len(columns["latency"]))
