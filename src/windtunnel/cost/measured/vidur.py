"""Vidur's profiles: `mlp.csv` (linear and elementwise layers) and `all_reduce.csv`, milliseconds.

A file of layers holds one model at several tensor-parallel degrees in fp16; products are the same in
bf16, so both formats find them. Of the repeated executions the median is taken.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from windtunnel.cost.measured.check import Rows, number, unit_problem
from windtunnel.cost.measured.kernels import Key, MeasuredKernels
from windtunnel.cost.measured.limits import key_limits_s
from windtunnel.cost.measured.table import Table, table
from windtunnel.errors import Problem, TraceError
from windtunnel.operators.operator import ACTIVATION_BYTES
from windtunnel.specs.hardware import AcceleratorSpec

MILLISECOND = 1e-3
SHAPE = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers")
PRODUCTS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
REDUCE = ("num_workers", "size", "devices_per_node")
TIME = "time_stats.{}.median"
Groups = dict[Key, dict[tuple[float, ...], list[float]]]


def is_vidur(path: Path) -> bool:
    """Whether a CSV file is one of these, by its header."""
    if path.suffix != ".csv" or not path.is_file():
        return False
    header = _header(path)
    return TIME.format(PRODUCTS[0]) in header or TIME.format("all_reduce") in header


def read_vidur(path: Path, accelerator: AcceleratorSpec | None = None) -> MeasuredKernels:
    """The tables of one file.

    Raises:
        TraceError: a column is missing, a cell is not a positive number, or the unit cannot be right.
    """
    layers = TIME.format(PRODUCTS[0]) in _header(path)
    groups = _read_layers(path) if layers else _read_all_reduce(path)
    axis = "rows" if layers else "message_bytes"
    tables: dict[Key, Table] = {}
    for key, points in groups.items():
        tables[key] = table((axis,), {size: float(np.median(times)) for size, times in points.items()}, path.name)
    if accelerator is not None:
        _check_units(path, tables, accelerator)
    note = f"{path.name} does not say which device it was measured on"
    return MeasuredKernels(accelerator.name if accelerator else "", f"Vidur profile {path.name}", tables, notes=(note,))


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(Problem(f"cannot read the table ({error})", str(path))) from None


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, float]]:
    header = _header(path)
    missing = [Problem("column is missing", str(path), column) for column in columns if column not in header]
    if missing:
        raise TraceError(missing)
    said = Rows(str(path))
    with path.open(newline="") as file:
        found = [
            {column: number(said, line, column, row[column]) for column in columns}
            for line, row in enumerate(csv.DictReader(file), start=2)
        ]
    said.check()
    if not found:
        raise TraceError(Problem("the table has no rows", str(path)))
    return found


def _read_layers(path: Path) -> Groups:
    layers = (*PRODUCTS, "mlp_act", "attn_rope")
    groups: Groups = {}

    def keep(key: Key, rows: float, milliseconds: float) -> None:
        if milliseconds > 0:
            groups.setdefault(key, {}).setdefault((rows,), []).append(milliseconds * MILLISECOND)

    for row in _rows(path, (*SHAPE, *(TIME.format(layer) for layer in layers))):
        heads, kv_heads, hidden, ffn, tokens, ranks = (int(row[name]) for name in SHAPE)
        width, q, kv = hidden // heads, heads // ranks, max(kv_heads // ranks, 1)
        shapes = (
            ((q + 2 * kv) * width, hidden),
            (hidden, q * width),
            (2 * ffn // ranks, hidden),
            (hidden, ffn // ranks),
        )
        for layer, (n, k) in zip(PRODUCTS, shapes, strict=True):
            for dtype in ("fp16", "bf16"):
                keep(("gemm", n, k, dtype, dtype), tokens, row[TIME.format(layer)])
        rope, activation = 2 * (q + kv) * width, 3 * ffn // ranks
        keep(("elementwise", "rope", round(rope * ACTIVATION_BYTES)), tokens, row[TIME.format("attn_rope")])
        keep(
            ("elementwise", "mlp activation", round(activation * ACTIVATION_BYTES)), tokens, row[TIME.format("mlp_act")]
        )
    return groups


def _read_all_reduce(path: Path) -> Groups:
    """All-reduces of ranks in one node; every rank's time is a measurement of the same execution."""
    groups: Groups = {}
    time = TIME.format("all_reduce")
    for row in _rows(path, (*REDUCE, time)):
        ranks = int(row["num_workers"])
        if row["devices_per_node"] >= ranks and row[time] > 0:
            key: Key = ("collective", "all_reduce", ranks)
            groups.setdefault(key, {}).setdefault((row["size"],), []).append(row[time] * MILLISECOND)
    if not groups:
        raise TraceError(Problem("no all-reduce inside a node", str(path)))
    return groups


def _check_units(path: Path, tables: dict[Key, Table], accelerator: AcceleratorSpec) -> None:
    problems = []
    for key, found in tables.items():
        problem = unit_problem(str(path), " ".join(map(str, key)), found, key_limits_s(key, found, accelerator))
        problems += [problem] if problem else []
    if problems:
        raise TraceError(problems)
