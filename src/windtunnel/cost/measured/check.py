"""What is wrong with a measured table: columns, signs, contradictions, and times that cannot be true."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from windtunnel.cost.measured.table import Table
from windtunnel.errors import Problem, TraceError

CONTRADICTION = 1.5
"""Two measurements of one point further apart than this contradict each other."""
THOUSAND = 1000.0
TOO_FAST = 0.5
"""A table whose times are, in the median, below this share of the speed of light is in another unit."""
TOO_SLOW = 200.0
"""In the median this many times slower than the speed of light at large sizes: no kernel is."""
MOST_PROBLEMS = 20


@dataclass(slots=True)
class Rows:
    """Rows of one table as they are read, with their problems."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, message: str, line: int, column: str, got: object, allowed: str = "") -> None:
        """Note a problem of one cell."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(message, f"{self.file}:{line}", column, repr(got), allowed))

    def check(self) -> None:
        """Raise what was found."""
        if self.problems:
            raise TraceError(self.problems)


def read_rows(
    path: Path, columns: Sequence[str], text: Sequence[str] = (), optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, float], dict[str, str]]]:
    """The rows of a CSV file as (line, numbers, texts), every number finite and not negative.

    Args:
        path: the file.
        columns: numeric columns that must be there.
        text: columns with text that must be there.
        optional: further numeric columns.

    Raises:
        TraceError: a column is missing or unknown, or a cell is not a number at least 0.
    """
    rows = Rows(str(path))
    known = {*columns, *text, *optional}
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            _check_header(path, header, [*columns, *text], known)
            found = []
            for line, row in enumerate(reader, start=2):
                numbers = {name: number(rows, line, name, row[name]) for name in header if name not in text}
                found.append((line, numbers, {name: row[name] or "" for name in text}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(Problem(f"cannot read the table ({error})", str(path))) from None
    if not found:
        raise TraceError(Problem("the table has no rows", str(path)))
    rows.check()
    return found


def _check_header(path: Path, header: Sequence[str], needed: Sequence[str], known: set[str]) -> None:
    problems = [Problem("column is missing", str(path), name) for name in needed if name not in header]
    allowed = ", ".join(sorted(known))
    problems += [Problem("unknown column", str(path), name, allowed=allowed) for name in header if name not in known]
    if problems:
        raise TraceError(problems)


def number(rows: Rows, line: int, column: str, cell: str | None) -> float:
    """A cell as a number; a problem is noted when it is none, or negative."""
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        rows.wrong("not a number", line, column, cell)
        return math.nan
    if value < 0:
        rows.wrong("must not be negative", line, column, cell, "at least 0")
    return value


def gather(
    file: str, rows: Sequence[tuple[int, tuple[float, ...], float]], time_column: str
) -> dict[tuple[float, ...], float]:
    """Seconds by point: repeated measurements give their median, contradictory ones a problem.

    Args:
        file: named in messages.
        rows: (line, sizes, seconds).
        time_column: named in messages.
    """
    said = Rows(file)
    seen: dict[tuple[float, ...], list[float]] = {}
    for line, sizes, seconds in rows:
        if not seconds > 0:
            said.wrong("a kernel takes time", line, time_column, seconds, "above 0")
            continue
        before = seen.setdefault(sizes, [])
        if before and max(seconds / before[0], before[0] / seconds) > CONTRADICTION:
            said.wrong(f"contradicts an earlier row of the same sizes ({before[0]:.4g} s)", line, time_column, seconds)
        before.append(seconds)
    said.check()
    return {sizes: float(np.median(times)) for sizes, times in seen.items()}


def unit_problem(file: str, name: str, found: Table, limits_s: Mapping[tuple[float, ...], float]) -> Problem | None:
    """A table whose unit is off by a factor of a thousand, told by the speed of light of its larger points.

    Args:
        file: named in messages.
        name: which kernel.
        found: the table.
        limits_s: speed of light at its points, where it is known.
    """
    known = [(limit, found.points[sizes] / limit) for sizes, limit in limits_s.items() if limit > 0]
    if not known:
        return None
    most = max(limit for limit, _ in known)
    ratio = float(np.median([ratio for limit, ratio in known if limit >= most / 4.0]))
    if ratio < TOO_FAST:
        off = "a factor of 1,000" if ratio < 20.0 / THOUSAND else f"a factor of {1.0 / ratio:.3g}"
        return Problem(f"{name}: faster than the hardware can be by {off}; is the unit right?", file)
    if ratio > TOO_SLOW:
        return Problem(f"{name}: {ratio:,.0f} times slower than the hardware's limit; is the unit right?", file)
    return None
