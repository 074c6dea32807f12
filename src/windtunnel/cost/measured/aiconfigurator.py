"""Tables of the package `aiconfigurator-core` (Apache-2.0, an optional extra) as measured kernels.

Products in three number formats, prefill attention of one prompt, decode attention and all-reduces of
a system, from the backend that measured most of each. A shape that was not measured is left to the cost
model, whose constants were fitted to the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.calibration.tables import SYSTEMS, read_tables, tables_folder
from windtunnel.cost.measured.kernels import ATTENTION_AXES, Key, MeasuredKernels
from windtunnel.cost.measured.table import Table, table
from windtunnel.errors import Problem, TraceError
from windtunnel.specs.hardware import AcceleratorSpec

NAME = "aiconfigurator"
MILLISECOND = 1e-3
BACKENDS = ("vllm", "sglang", "trtllm")
DTYPES = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8",), "nvfp4": ("nvfp4",)}
KV = {"bfloat16": 2.0, "float16": 2.0, "fp8": 1.0}
HALF_BYTES = 2.0
"""The package counts the sizes of messages in 16-bit values."""
Found = dict[Key, dict[tuple[float, ...], float]]


def read_aiconfigurator(accelerator: AcceleratorSpec, folder: Path | str | None = None) -> MeasuredKernels:
    """The tables of an accelerator.

    Args:
        accelerator: of the catalogue.
        folder: the package's `systems/data`; default the installed one.

    Raises:
        MissingDependencyError: the package is not installed.
        TraceError: it has no tables of this accelerator.
    """
    data = tables_folder(folder)
    system = SYSTEMS.get(accelerator.name)
    if system is None or not (data / system).is_dir():
        raise TraceError(Problem("no tables of this accelerator", str(data), "", accelerator.name, ", ".join(SYSTEMS)))
    tables: dict[Key, Table] = {}
    for axes, found in (
        (("rows",), _products(data, system)),
        (ATTENTION_AXES, _attention(data, system)),
        (("message_bytes",), _all_reduce(data, system)),
    ):
        tables.update({key: table(axes, points, NAME) for key, points in found.items()})
    if not tables:
        raise TraceError(Problem("no tables of this accelerator", str(data / system)))
    return MeasuredKernels(accelerator.name, f"{NAME}-core tables of {system}", tables)


def _keep(found: Found, key: Key, sizes: tuple[float, ...], seconds: float) -> None:
    """The faster of repeated measurements: the slower one ran another kernel or was disturbed."""
    points = found.setdefault(key, {})
    points[sizes] = min(points.get(sizes, seconds), seconds)


def _products(data: Path, system: str) -> Found:
    found: Found = {}
    for dtype, labels in DTYPES.items():
        read = read_tables(data, system, "gemm", "gemm_perf.parquet", BACKENDS, {"gemm_dtype": labels})
        if read is None:
            continue
        for m, n, k, latency in _numbers(read.columns, "m", "n", "k", "latency"):
            _keep(found, ("gemm", int(n), int(k), dtype, dtype), (m,), latency * MILLISECOND)
    return found


def _attention(data: Path, system: str) -> Found:
    found: Found = {}
    common: Mapping[str, tuple[Any, ...]] = {"window_size": (0,), "attn_dtype": ("bfloat16", "float16")}
    names = ("num_heads", "num_key_value_heads", "head_dim", "batch_size", "isl", "step", "latency")
    for file, decode in (("generation_attention_perf.parquet", True), ("context_attention_perf.parquet", False)):
        for label, width in KV.items():
            where = {**common, "kv_cache_dtype": (label,)}
            read = read_tables(data, system, "attention", file, BACKENDS, where)
            if read is None:
                continue
            for heads, kv_heads, head_dim, batch, length, step, latency in _numbers(read.columns, *names):
                key: Key = ("attention", int(heads), int(kv_heads or heads), int(head_dim), width)
                if decode:
                    _keep(found, key, (0.0, 0.0, batch, length + step), latency * MILLISECOND)
                elif batch == 1:
                    _keep(found, key, (length, step, 0.0, 0.0), latency * MILLISECOND)
    return {key: points for key, points in found.items() if any(sizes[0] for sizes in points)}


def _all_reduce(data: Path, system: str) -> Found:
    found: Found = {}
    where = {"kernel_source": ("vLLM_custom_graph", "SGLang_CustomAllReduce_graph", "TRTLLM")}
    read = read_tables(data, system, "comm", "custom_allreduce_perf.parquet", BACKENDS, where)
    if read is not None:
        for ranks, size, latency in _numbers(read.columns, "num_gpus", "message_size", "latency"):
            _keep(found, ("collective", "all_reduce", int(ranks)), (size * HALF_BYTES,), latency * MILLISECOND)
    return found


def _numbers(columns: Mapping[str, npt.NDArray[Any]], *names: str) -> list[tuple[float, ...]]:
    """The rows of some columns as numbers; a column that a table lacks is 0."""
    count = len(columns["latency"])
    each = [np.asarray(columns[name], dtype=np.float64) if name in columns else np.zeros(count) for name in names]
    return list(zip(*(column.tolist() for column in each), strict=True))
