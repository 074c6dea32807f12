"""Fit every operator class of a device and write its calibration entry: what `windtunnel calibrate` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from windtunnel.cost.calibration import fit
from windtunnel.cost.calibration.across import across_devices, across_yaml
from windtunnel.cost.calibration.check import problems_of
from windtunnel.cost.calibration.fit import Fit
from windtunnel.cost.calibration.tables import SYSTEMS, Columns, Table, read_tables
from windtunnel.cost.device import Device, calibration
from windtunnel.cost.uncertainty import ACROSS
from windtunnel.errors import Problem, TraceError
from windtunnel.files import write_atomic
from windtunnel.specs.assemble import default_node, scale_up_fabric
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec, NodeSpec
from windtunnel.specs.load import resolve

# TensorRT-LLM's bf16 tables are the least noisy; attention and collectives are taken from vLLM's kernels, which
# the default engine runs.
GEMM_BACKENDS = {
    "bf16": ("trtllm", "sglang", "vllm"),
    # SGLang's fp8 entries hold one kernel that quantises the activations; TensorRT-LLM's hold three, vLLM's a slow one.
    "fp8": ("sglang", "vllm"),
    "nvfp4": ("vllm", "sglang", "trtllm"),
    "int8": ("trtllm",),
}
ATTENTION_BACKENDS = ("vllm", "sglang", "trtllm")
GEMM_DTYPES = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8",), "nvfp4": ("nvfp4",), "int8": ("sq",)}
MOE_DTYPES = {
    "bf16": ("bfloat16", "float16"),
    "fp8": ("fp8_block", "fp8"),
    "nvfp4": ("nvfp4",),
    "int4": ("int4_wo",),
    "mxfp4": ("w4a8_mxfp4_mxfp8", "w4a16_mxfp4"),
}
PROFILED_BY_LAYER = ("int8",)
"""Formats whose tables come from TensorRT's layer profiler, in steps of 1.024 us and some 5 us above a kernel's time in
a captured graph: the products' own fixed time is bf16's."""
TILES_BY_ROWS = ("hopper", "blackwell")
"""Architectures whose fp8 kernels in vLLM and SGLang (CUTLASS 3) choose a tile by the rows alone."""
SAME_RACK = {"gb200": "gb300"}
"""Racks of one fabric and host layout: the second was measured over several trays."""
IN_ONE_HOST = 8
"""GPUs of the largest server under one operating system; nodes of more are racks."""
SLOWER_WITH_FEWER = 1.4
"""A smaller group slower than a larger one by more than this is an error of the measurement."""
WIDTH_MULTIPLES: dict[tuple[str, str], int] = {
    ("fp8", ""): 128,
    ("mxfp4", ""): 128,
    ("mxfp4", "blackwell"): 256,
    ("nvfp4", "blackwell"): 256,
}
"""Multiples that experts' widths are padded to, by format and architecture: a line of 128 bytes of a tile, which is
also fp8's block of scales; 4-bit weights that 16-bit arithmetic expands are padded to 128 by vLLM."""
NEGLIGIBLE = 5e-11
"""Below every constant's unit: seconds down to picoseconds, shares."""
MIN_WIDTH = 256
"""Products narrower than this do not occur in the models of the catalogue and are left out."""


@dataclass
class Calibration:
    """What has been fitted so far for one device."""

    entry: dict[str, Any] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, found: Fit, table: Table, values: Mapping[str, Any]) -> None:
        """Keep a fit and its constants under a dotted name such as `gemm.bf16`."""
        top, _, below = name.partition(".")
        if below:
            self.entry.setdefault(top, {})[below] = dict(values)
        else:
            self.entry[top] = dict(values)
        self.fits[name], self.origins[name] = found, table.origin


def calibrate(accelerator: AcceleratorSpec, folder: Path) -> Calibration:
    """Fit every operator class for which the device has measurements.

    Raises:
        TraceError: what is wrong with the tables that would be used, all of it.
    """
    system = SYSTEMS[accelerator.name]
    problems: list[Problem] = []

    def wrong(path: Path, columns: Columns) -> bool:
        found = problems_of(path, columns, accelerator)
        problems.extend(found)
        return bool(found)

    def read(
        kernels: str, file: str, backends: tuple[str, ...], where: Mapping[str, tuple[Any, ...]], system: str = system
    ) -> Table | None:
        own = system == SYSTEMS[accelerator.name]
        return read_tables(folder, system, kernels, file, backends, where, wrong if own else None)

    result = _calibrate(accelerator, read)
    if problems:
        raise TraceError(list(dict.fromkeys(problems)))
    return result


def _calibrate(accelerator: AcceleratorSpec, read: Callable[..., Table | None]) -> Calibration:
    device = Device(accelerator, calibration("generic"), "datasheet")
    result = Calibration()
    _fit_gemms(accelerator, device, read, result, GEMM_DTYPES)
    _fit_attention(device, read, result)
    for dtype, labels in MOE_DTYPES.items():
        _fit_moe(accelerator, device, read, dtype, labels, result)
    _fit_collective(accelerator, device, read, result)
    return result


def _fit_gemms(
    accelerator: AcceleratorSpec,
    device: Device,
    read: Callable[..., Table | None],
    result: Calibration,
    dtypes: Iterable[str],
) -> None:
    """Dense products in every format that the device computes in."""
    for dtype in dtypes:
        table = _wide(read("gemm", "gemm_perf.parquet", GEMM_BACKENDS[dtype], {"gemm_dtype": GEMM_DTYPES[dtype]}))
        if table is not None and dtype in accelerator.peak_flops_per_s:
            by_rows = dtype == "fp8" and accelerator.architecture in TILES_BY_ROWS
            found = fit.fit_gemm(table.columns, device, dtype, by_rows)
            values = _values(fit.gemm_constants(found.values, by_rows))  # type: ignore[arg-type]
            if dtype in PROFILED_BY_LAYER and "bf16" in result.entry.get("gemm", {}):
                values["launch_s"] = result.entry["gemm"]["bf16"]["launch_s"]
            result.take(f"gemm.{dtype}", found, table, values)


def _fit_attention(device: Device, read: Callable[..., Table | None], result: Calibration) -> None:
    """Decode, decode over a latent cache, and prefill."""
    plain = {"window_size": (0,), "kv_cache_dtype": ("bfloat16", "float16"), "attn_dtype": ("bfloat16", "float16")}
    common = {**plain, "head_dim": (64, 128, 256)}
    table = read("attention", "generation_attention_perf.parquet", ATTENTION_BACKENDS, common)
    if table is not None:
        found = fit.fit_decode(table.columns, device)
        result.take("decode", found, table, _values(fit.decode_constants(found.values)))  # type: ignore[arg-type]
    table = read("mla", "generation_mla_perf.parquet", ATTENTION_BACKENDS, {"kv_cache_dtype": ("bfloat16", "float16")})
    if table is not None:
        found = fit.fit_latent(table.columns, device)
        result.take("latent", found, table, _values(fit.latent_constants(found.values)))  # type: ignore[arg-type]
    table = read("attention", "context_attention_perf.parquet", ATTENTION_BACKENDS, common)
    if table is not None:
        found = fit.fit_prefill(table.columns, fit.with_decode(device, result.fits.get("decode")))
        result.take("prefill", found, table, _values(fit.prefill_constants(found.values)))  # type: ignore[arg-type]


def _fit_moe(
    accelerator: AcceleratorSpec,
    device: Device,
    read: Callable[..., Table | None],
    dtype: str,
    labels: tuple[str, ...],
    result: Calibration,
) -> None:
    """Grouped products of ranks that hold all experts; 4-bit weights meet 16 bits where the device lacks the format."""
    peaks = accelerator.peak_flops_per_s
    compute = dtype
    if dtype == "mxfp4":
        compute, labels = ("fp8", labels[:1]) if "mxfp4" in peaks else ("bf16", labels[1:])
    elif dtype == "int4":
        compute = "bf16"
    if compute not in peaks:
        return
    where = {"moe_dtype": labels, "distribution": ("power_law_1.01",), "moe_ep_size": (1,)}
    backends = GEMM_BACKENDS[dtype] if dtype in ("fp8", "nvfp4") else ATTENTION_BACKENDS
    table = read("moe", "moe_perf.parquet", backends, where)
    if table is None:
        return
    multiple = WIDTH_MULTIPLES.get((dtype, accelerator.architecture), WIDTH_MULTIPLES.get((dtype, ""), 1))
    found = fit.fit_moe(table.columns, device, dtype, compute, multiple)
    name = "moe" if dtype == "bf16" else f"moe_narrow.{dtype}"
    result.take(name, found, table, _values(fit.moe_constants(found.values, multiple)))  # type: ignore[arg-type]


def _fit_collective(
    accelerator: AcceleratorSpec, device: Device, read: Callable[..., Table | None], result: Calibration
) -> None:
    node = default_node(accelerator.name)
    if node is None:
        return
    rate = scale_up_fabric(accelerator, node).bytes_per_s
    table = _all_reduces(read)
    if table is None:
        return
    ranks = int(table.columns["num_gpus"].max())
    form = fit.OVER_HOST if node.topology == "host" else fit.RACK if _in_rack(node, ranks) else fit.FABRIC
    found = fit.fit_all_reduce(table.columns, device, rate, form)
    values = _values(fit.collective_constants(found.values, form))  # type: ignore[arg-type]
    result.take("collective", found, table, values)
    other = SAME_RACK.get(accelerator.name)
    beyond = _all_reduces(partial(read, system=SYSTEMS[other])) if other else None
    if beyond is not None and form == fit.FABRIC:
        # Measured within a tray alone: the same rack's times beyond it.
        wide = fit.fit_all_reduce(beyond.columns, device, rate, fit.RACK)
        known = _values(fit.collective_constants(wide.values, fit.RACK))  # type: ignore[arg-type]
        values |= {name: known[name] for name in ("near_ranks", "switch_s", "hop_s")}
        result.take("collective", found, table, values)
        result.origins["collective beyond a tray"] = f"{other} {beyond.origin}"


def _in_rack(node: NodeSpec, ranks: int) -> bool:
    """Whether the ranks of a table span several hosts of one fabric."""
    return node.accelerators > IN_ONE_HOST and ranks > fit.TRAY_RANKS


def _all_reduces(read: Callable[..., Table | None]) -> Table | None:
    """All-reduces under captured graphs, without small groups that are slower than larger ones.

    Fewer ranks move less; where a table says otherwise by a wide margin its library was set up wrongly for them
    (two ranks of GB200 at half of what the library's own table shows).
    """
    where = {"kernel_source": ("vLLM_custom_graph", "SGLang_CustomAllReduce_graph", "TRTLLM")}
    table = read("comm", "custom_allreduce_perf.parquet", ATTENTION_BACKENDS, where)
    if table is None:
        return None
    ranks, size, latency = (table.columns[name] for name in ("num_gpus", "message_size", "latency"))
    larger = (size[:, None] == size[None, :]) & (ranks[None, :] > ranks[:, None])
    least = np.where(larger, latency[None, :], np.inf).min(axis=1)
    return _rows(table, latency <= SLOWER_WITH_FEWER * least)


def _wide(table: Table | None) -> Table | None:
    if table is None:
        return None
    return _rows(table, (table.columns["n"] >= MIN_WIDTH) & (table.columns["k"] >= MIN_WIDTH))


def _rows(table: Table, keep: npt.NDArray[Any]) -> Table:
    return Table({name: column[keep] for name, column in table.columns.items()}, table.origin)


def _values(constants: Spec) -> dict[str, float | bool | int]:
    """Constants as they are written: four digits, and the regression's smallest numbers as the zeros they mean."""
    dumped = constants.model_dump().items()
    return {name: value if isinstance(value, bool | int) else _rounded(value) for name, value in dumped}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if abs(value) > NEGLIGIBLE else 0.0


def entry_yaml(accelerator: AcceleratorSpec, result: Calibration, date: str) -> str:
    """The calibration entry as YAML, with its sources, samples, errors and residual quantiles."""
    tables = ", ".join(f"{name}: {origin}" for name, origin in result.origins.items())
    entry = {
        "extends": "generic",
        "name": accelerator.name,
        **result.entry,
        "samples": {name: found.samples for name, found in result.fits.items()},
        "errors": {name: round(found.median_error, 4) for name, found in result.fits.items()},
        "intervals": {name: [round(q, 4) for q in found.interval] for name, found in result.fits.items()},
        "sources": [
            {
                "kind": "calibrated",
                "source": "fitted to the measured kernels of aiconfigurator-core 0.12 (Apache-2.0); " + tables,
                "date": date,
            },
            {
                "fields": ["elementwise_efficiency", "elementwise_launch_s"],
                "kind": "assumed",
                "source": "as in the generic entry",
                "date": date,
            },
        ],
    }
    return yaml.safe_dump(entry, sort_keys=False, width=110)


def calibrate_folder(folder: Path, accelerators: Sequence[str] = ()) -> dict[str, Calibration]:
    """Fits of every device (or those named) of which the folder holds tables.

    Raises:
        TraceError: the folder holds none, or tables that are wrong.
    """
    asked = accelerators or [name for name, system in SYSTEMS.items() if (folder / system).is_dir()]
    unknown = [Problem("no tables are known of it", "ACCELERATOR", got=one, allowed=", ".join(SYSTEMS)) for one in asked
               if one not in SYSTEMS]  # fmt: skip
    if unknown:
        raise TraceError(unknown)
    found: dict[str, Calibration] = {}
    problems: list[Problem] = []
    for name in asked:
        try:
            result = calibrate(resolve("accelerators", name), folder)
        except TraceError as error:
            problems += error.problems
            continue
        if result.fits:
            found[name] = result
    if problems:
        raise TraceError(problems)
    if not found:
        allowed = "folders such as h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
        raise TraceError(Problem("no measured kernels", str(folder), allowed=allowed))
    return found


def across(found: Mapping[str, Calibration]) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Bands of devices without measurements, and the device that stood for each architecture."""
    devices: dict[str, str] = {}
    for name in found:
        devices.setdefault(resolve("accelerators", name).architecture, name)
    return across_devices({kind: found[name].fits for kind, name in devices.items()}), devices


def write(found: Mapping[str, Calibration], out: Path, date: str) -> list[Path]:
    """Write the catalogue's entries into a folder; the bands across devices need two architectures at least."""
    texts = {name: entry_yaml(resolve("accelerators", name), one, date) for name, one in found.items()}
    bands, devices = across(found)
    if len(devices) > 1:
        texts[ACROSS] = across_yaml(bands, devices, date)
    return [write_atomic(out / f"{name}.yaml", text) for name, text in texts.items()]
