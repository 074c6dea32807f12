"""Read a table of measured results: which of the three formats it is, its rows, its flaws.

The formats are told apart by their columns; `split` and `tier` may be missing, `group` too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml

from windtunnel.errors import Problem, TraceError, nearest
from windtunnel.specs.fields import Spec
from windtunnel.specs.load import build, catalogue_folder

Format = Literal["serving", "training", "inferencex"]


class FormatColumns(Spec):
    """The columns of one format, as `catalogue/evidence/columns.yaml` explains."""

    columns: tuple[str, ...]
    telling: tuple[str, ...]
    needed: tuple[str, ...]
    measured: tuple[str, ...]
    counts: tuple[str, ...]


class TableColumns(Spec):
    """The columns of every format."""

    optional: tuple[str, ...]
    formats: dict[Format, FormatColumns]


@lru_cache(maxsize=1)
def table_columns() -> TableColumns:
    """The packaged description of the formats."""
    text = (catalogue_folder("evidence") / "columns.yaml").read_text(encoding="utf-8")
    return build(TableColumns, yaml.safe_load(text), "catalogue/evidence/columns.yaml")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the file holds it.

    Attributes:
        line: its line in the file, counted from 1.
        cells: text by column; a missing column reads as empty.
    """

    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """The cell without spaces at its ends; empty when not stated."""
        return (self.cells.get(column) or "").strip()

    def number(self, column: str) -> float:
        """The cell as a number; nan when it is empty or no number."""
        try:
            return float(self.text(column))
        except ValueError:
            return math.nan

    def count(self, column: str, default: int = 0) -> int:
        """The cell as a whole number; the default when it is empty or no whole number."""
        value = self.number(column)
        return int(value) if math.isfinite(value) and value == int(value) else default


@dataclass(frozen=True, slots=True)
class Table:
    """A table of measured results."""

    path: str
    format: Format
    rows: tuple[Row, ...]

    def keep(self, **wanted: str) -> Table:
        """The rows whose columns equal the wanted values; an empty value keeps all."""
        asked = {column: value for column, value in wanted.items() if value}
        rows = tuple(row for row in self.rows if all(row.text(c) == v for c, v in asked.items()))
        return Table(self.path, self.format, rows)


def read_table(path: Path) -> Table:
    """Read a CSV file of measured results.

    Raises:
        TraceError: it cannot be read, is no table, or its columns are of no known format.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            format_ = _format_of(columns, str(path))
            rows, problems = [], []
            for cells in reader:
                row = Row(reader.line_num, {k: v for k, v in cells.items() if isinstance(k, str)})
                if None in cells or None in cells.values():
                    message = "the row has more or fewer cells than the table has columns"
                    problems.append(Problem(message, str(path), f"line {reader.line_num}"))
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(Problem(f"cannot be read as a table ({error})", str(path))) from error
    if problems:
        raise TraceError(problems[:20])
    if not rows:
        raise TraceError(Problem("the table holds no rows", str(path)))
    return Table(str(path), format_, tuple(rows))


def _format_of(columns: list[str], path: str) -> Format:
    have = set(columns)
    if not have:
        raise TraceError(Problem("the file is empty", path))
    formats, optional = table_columns().formats, table_columns().optional

    def told(name: Format) -> float:
        return len(have.intersection(formats[name].telling)) / len(formats[name].telling)

    format_ = max(formats, key=told)
    if not told(format_):
        everything = sorted({column for one in formats.values() for column in one.columns})
        unknown = [c for c in columns if c not in everything] or columns
        allowed = "the columns of a serving, training or inferencex table"
        raise TraceError(
            [
                Problem("unknown columns", path, got=", ".join(sorted(have))[:120], allowed=allowed),
                *(Problem("unknown column", path, got=repr(c), nearest=nearest(c, everything)) for c in unknown[:6]),
            ]
        )
    known = (*formats[format_].columns, *optional)
    problems = [
        Problem(f"unknown column in a {format_} table", path, got=repr(column), nearest=nearest(column, known))
        for column in columns
        if column not in known
    ]
    missing = [column for column in formats[format_].needed if column not in have]
    problems += [Problem(f"a {format_} table needs this column", path, column) for column in missing]
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    problems += [Problem("the column occurs twice", path, column) for column in doubled]
    if problems:
        raise TraceError(problems)
    return format_
