"""Parquet with named columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.named import match_columns, table_of_columns
from windtunnel.workload.formats.trace import ROWS_AT_ONCE, Rows, Trace


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read a Parquet file; problems name rows, counted from 1, in place of lines.

    Args:
        path: the file.
        columns: meaning to column, for names that are not known; see `named.KNOWN`.
    """
    import polars as pl

    faults = Faults(str(path))
    try:
        frame = pl.scan_parquet(path)
        found = match_columns(frame.collect_schema().names(), columns, faults)
        table = frame.select(list(found.values())).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        faults.fail(f"cannot read the file as Parquet ({str(error).splitlines()[0]})")
    return table_of_columns(_pieces(table, found), found, "named_parquet", faults)


def _pieces(table: Any, found: Mapping[str, str]) -> Iterator[Rows]:
    for start in range(0, len(table), ROWS_AT_ONCE):
        piece = table.slice(start, ROWS_AT_ONCE)
        columns = {name: _plain_values(piece[name]) for name in found.values()}
        yield Rows(range(start + 1, start + 1 + len(piece)), columns)


def _plain_values(column: Any) -> list[Any]:
    """A column's values; dates as ISO text, like in the text formats."""
    if column.dtype.is_temporal():
        return [None if value is None else value.isoformat() for value in column.to_list()]
    values: list[Any] = column.to_list()
    return values
