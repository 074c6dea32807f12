"""Measured kernel tables of the package `aiconfigurator-core` as plain columns.

The tables are Parquet files under `systems/data/SYSTEM/CLASS/BACKEND/VERSION/`. Nothing of them ships; the
fitted constants do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.errors import MissingDependencyError

Columns = Mapping[str, npt.NDArray[Any]]

SYSTEMS: dict[str, str] = {
    "a100-80g-sxm": "a100_sxm",
    "a100-80g-pcie": "a100_pcie",
    "a30": "a30",
    "h100-sxm": "h100_sxm",
    "h100-pcie": "h100_pcie",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "l4": "l4",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
"""Catalogue accelerators and the systems of the package that measured them."""


@dataclass(frozen=True, slots=True)
class Table:
    """Measured kernels of one class: columns, where they come from."""

    columns: Columns
    origin: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def tables_folder(path: str | Path | None = None) -> Path:
    """The folder `systems/data` of the installed package, or the one given.

    Raises:
        MissingDependencyError: the package is not installed and no path was given.
    """
    if path is not None:
        return Path(path)
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "kernel tables need the extra: pip install 'windtunnel[tables]', or a path to them"
        )
    return Path(found.submodule_search_locations[0]) / "systems" / "data"


def read_tables(
    folder: Path,
    system: str,
    kernel_class: str,
    file: str,
    backends: tuple[str, ...],
    where: Mapping[str, tuple[Any, ...]],
    wrong: Callable[[Path, Columns], bool] | None = None,
) -> Table | None:
    """The first backend's newest table that has rows left after filtering, as NumPy columns.

    Args:
        folder: from `tables_folder`.
        system: folder of the system.
        kernel_class: such as `gemm`.
        file: such as `gemm_perf.parquet`.
        backends: in order of preference.
        where: allowed values by column; a column that a table lacks is not checked.
        wrong: told of every table that is about to be used; one that it calls wrong is not.
    """
    import polars as pl

    for backend in backends:
        base = folder / system / kernel_class / backend
        for path in sorted(base.glob(f"*/{file}"), key=lambda p: p.stat().st_size, reverse=True):
            frame = pl.read_parquet(path)
            for column, allowed in where.items():
                if column in frame.columns:
                    frame = frame.filter(pl.col(column).is_in(list(allowed)))
            if (
                wrong is not None
                and len(frame)
                and wrong(path, {name: frame[name].to_numpy() for name in frame.columns})
            ):
                return None
            frame = frame.filter(pl.col("latency") > 0)
            if len(frame) >= 100 or (kernel_class == "comm" and len(frame) >= 10):
                columns = {name: frame[name].to_numpy() for name in frame.columns}
                return Table(columns, f"{backend} {path.parent.name}")
    return None


def split(count: int, train: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A random split of row numbers into at most `train` (and at most half) for fitting and the rest held out."""
    order = np.random.default_rng(seed).permutation(count)
    cut = min(train, count // 2)
    return order[:cut], order[cut : cut + 8000]
