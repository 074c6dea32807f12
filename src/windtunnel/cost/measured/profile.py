"""Windtunnel's own format of measured kernels: a folder of Parquet tables, one per operator class.

    profile.yaml          format, device, date, software, notes: where the tables come from
    gemm.parquet          n, k, weight_dtype, compute_dtype | rows | seconds
    attention.parquet     q_heads, kv_heads, head_dim, kv_bytes | prefill_tokens, prefill_context_tokens,
                          requests, context_tokens | seconds
    experts.parquet       experts_per_token, hidden, ffn, matrices, weight_dtype, compute_dtype |
                          tokens, visited_experts | seconds
    elementwise.parquet   operator, row_bytes | rows | seconds
    collective.parquet    kind, ranks | message_bytes | seconds

Columns before the first bar say what was measured, those between the bars the sizes, and `seconds` is
the median time of one execution; `spread` (relative, 90th to 10th percentile) and `samples` may follow. The
spread gives the interval of what the tables price (see `MeasuredKernels.leaning`).
Sizes are per rank. A device file names the folder: `kernels: FOLDER` beside `extends: ACCELERATOR`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from windtunnel.cost.measured.check import Rows, gather, number, unit_problem
from windtunnel.cost.measured.kernels import ATTENTION_AXES, EXPERT_AXES, Key, MeasuredKernels
from windtunnel.cost.measured.limits import key_limits_s
from windtunnel.cost.measured.table import Table, table
from windtunnel.errors import Problem, TraceError
from windtunnel.files import write_atomic
from windtunnel.specs.hardware import AcceleratorSpec

FORMAT = "windtunnel-profile-1"
PROFILE = "profile.yaml"
TEXT = ("weight_dtype", "compute_dtype", "operator", "kind")
EXTRA = ("spread", "samples")
CLASSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gemm": (("n", "k", "weight_dtype", "compute_dtype"), ("rows",)),
    "attention": (("q_heads", "kv_heads", "head_dim", "kv_bytes"), ATTENTION_AXES),
    "experts": (("experts_per_token", "hidden", "ffn", "matrices", "weight_dtype", "compute_dtype"), EXPERT_AXES),
    "elementwise": (("operator", "row_bytes"), ("rows",)),
    "collective": (("kind", "ranks"), ("message_bytes",)),
}
"""Per operator class the columns that say what was measured, and the sizes."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a profile comes from.

    Attributes:
        device: catalogue name of the accelerator.
        date: of the measurement, ISO.
        software: what ran the kernels, such as `PyTorch 2.9, CUDA 13.0`.
        included: operators whose time is inside that of another one's table.
        notes: anything a reader should know.
    """

    device: str
    date: str = ""
    software: str = ""
    included: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def is_own_profile(folder: Path) -> bool:
    """Whether the folder is a profile in this format."""
    return (folder / PROFILE).is_file()


def write_profile(
    folder: Path, provenance: Provenance, rows: Mapping[str, Sequence[Mapping[str, object]]]
) -> list[Path]:
    """Write a profile's folder.

    Args:
        folder: made if need be.
        provenance: where it comes from.
        rows: per operator class its measurements, each with every column of `CLASSES` and `seconds`.

    Returns:
        The files written.
    """
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, measured in rows.items():
        shape, sizes = CLASSES[name]
        columns = [*shape, *sizes, "seconds", *(extra for extra in EXTRA if all(extra in row for row in measured))]
        path = folder / f"{name}.parquet"
        pl.DataFrame([{column: row[column] for column in columns} for row in measured]).write_parquet(path)
        written.append(path)
    described = {
        "format": FORMAT,
        "device": provenance.device,
        "date": provenance.date,
        "software": provenance.software,
        "included": list(provenance.included),
        "notes": list(provenance.notes),
    }
    write_atomic(folder / PROFILE, yaml.safe_dump(described, sort_keys=False))
    return [*written, folder / PROFILE]


def read_own_profile(folder: Path, accelerator: AcceleratorSpec | None = None) -> MeasuredKernels:
    """All tables of a profile.

    Raises:
        TraceError: every problem of the first table that has any, or the tables are of another device.
    """
    described = _describe(folder / PROFILE)
    device = str(described["device"])
    if accelerator is not None and device not in (accelerator.name, *accelerator.aliases):
        message = f"these kernels were measured on {device}, not on {accelerator.name}"
        raise TraceError(Problem(message, str(folder / PROFILE), "device", device, accelerator.name))
    tables: dict[Key, Table] = {}
    spreads: dict[str, float] = {}
    for name in CLASSES:
        path = folder / f"{name}.parquet"
        if path.is_file():
            found, spread = _read_class(name, path, accelerator)
            tables.update(found)
            spreads.update({name: spread} if spread else {})
    if not tables:
        raise TraceError(Problem("no tables", str(folder), allowed=", ".join(f"{name}.parquet" for name in CLASSES)))
    title = f"profile of {device}" + (f", {described['software']}" if described.get("software") else "")
    included, notes = described.get("included") or (), described.get("notes") or ()
    return MeasuredKernels(device, title, tables, frozenset(included), tuple(notes), spreads=spreads)


def _describe(path: Path) -> dict[str, Any]:
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TraceError(Problem(f"cannot read the profile's description ({error})", str(path))) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else data
        raise TraceError(Problem("not a profile of this version", str(path), "format", repr(got), FORMAT))
    if not data.get("device"):
        raise TraceError(Problem("is missing", str(path), "device"))
    known = ("format", "device", "date", "software", "included", "notes")
    unknown = [Problem("unknown field", str(path), key, allowed=", ".join(known)) for key in data if key not in known]
    if unknown:
        raise TraceError(unknown)
    return data


def _read_class(name: str, path: Path, accelerator: AcceleratorSpec | None) -> tuple[dict[Key, Table], float]:
    """One table of the folder, by what was measured, and the median spread of its timings (0: not recorded)."""
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TraceError(Problem(f"cannot read the table ({error})", str(path))) from None
    shape, sizes = CLASSES[name]
    needed, known = (*shape, *sizes, "seconds"), (*shape, *sizes, "seconds", *EXTRA)
    problems = [Problem("column is missing", str(path), column) for column in needed if column not in frame.columns]
    problems += [
        Problem("unknown column", str(path), column, allowed=", ".join(known))
        for column in frame.columns
        if column not in known
    ]
    if problems:
        raise TraceError(problems)
    said = Rows(str(path))
    groups: dict[Key, list[tuple[int, tuple[float, ...], float]]] = {}
    spreads = []
    for line, row in enumerate(frame.iter_rows(named=True), start=1):
        numbers = [number(said, line, column, str(row[column])) for column in (*sizes, "seconds")]
        key: Key = (name, *(row[column] if column in TEXT else _whole(row[column]) for column in shape))
        groups.setdefault(key, []).append((line, tuple(numbers[:-1]), numbers[-1]))
        if "spread" in row:
            spreads.append(number(said, line, "spread", str(row["spread"])))
    said.check()
    tables = {key: table(sizes, gather(str(path), found, "seconds"), path.name) for key, found in groups.items()}
    _check_units(path, tables, accelerator)
    return tables, float(np.median(spreads)) if spreads else 0.0


def _whole(value: Any) -> int | float:
    """Widths are whole numbers; bytes per value need not be."""
    return int(value) if float(value).is_integer() and not isinstance(value, float) else float(value)


def _check_units(path: Path, tables: Mapping[Key, Table], accelerator: AcceleratorSpec | None) -> None:
    if accelerator is None:
        return
    problems = []
    for key, found in tables.items():
        problem = unit_problem(str(path), " ".join(map(str, key)), found, key_limits_s(key, found, accelerator))
        problems += [problem] if problem else []
    if problems:
        raise TraceError(problems)
