"""What a format reader gets and gives, and the rows of text files in bounded pieces."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from windtunnel.errors import nearest
from windtunnel.workload.faults import Faults
from windtunnel.workload.table import Floats, RequestTable

ROWS_AT_ONCE = 65_536
"""Rows held as text at a time; what is kept of them is a few numbers each."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace as read.

    Attributes:
        table: the requests.
        format: name of the format it was read as.
        notes: what was assumed, estimated or left out, in sentences for the user.
    """

    table: RequestTable
    format: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """A piece of a file: the line of each row, and its values by column, all of the same length."""

    lines: Sequence[int]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.lines)


def open_text(path: Path) -> IO[str]:
    """A text file, unpacked if it is gzipped; a byte order mark is skipped."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    raw: Any = gzip.open(path, "rb") if packed else path.open("rb")  # noqa: SIM115  (the caller closes the wrapper)
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def csv_header(line: str) -> tuple[list[str], str]:
    """The column names in a header line, and the delimiter (comma, semicolon or tab)."""
    delimiter = max(",;\t", key=line.count)
    names = next(csv.reader([line], delimiter=delimiter), [])
    return [name.strip() for name in names], delimiter


def csv_names(path: Path, faults: Faults) -> list[str]:
    """The column names of a CSV file."""
    try:
        with open_text(path) as file:
            return csv_header(file.readline())[0]
    except (UnicodeDecodeError, csv.Error, OSError, EOFError) as error:
        faults.fail(f"the header cannot be read as CSV ({error})")


def csv_rows(path: Path, wanted: Sequence[str], faults: Faults) -> Iterator[Rows]:
    """The wanted columns of a CSV file, piece by piece.

    Args:
        path: the file, with a header line.
        wanted: column names that must all be there.
        faults: where faults are noted; missing and repeated columns raise at once.
    """
    with open_text(path) as file:
        try:
            names, delimiter = csv_header(file.readline())
            at = _positions(names, wanted, faults)
            reader = csv.reader(file, delimiter=delimiter)
            line = 2
            while rows := list(islice(reader, ROWS_AT_ONCE)):
                lines: Sequence[int] = range(line, line + len(rows))
                line += len(rows)
                if min(map(len, rows)) != len(names) or max(map(len, rows)) != len(names):
                    rows, lines = _even(rows, lines, len(names), faults)
                if rows:
                    yield Rows(lines, {name: [row[i] for row in rows] for name, i in zip(wanted, at, strict=True)})
        except csv.Error as error:
            faults.fail(f"not readable as CSV ({error})")
        except UnicodeDecodeError:
            faults.fail("the file is not UTF-8 text")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            faults.fail(f"cannot read the file ({error})")


def _positions(names: list[str], wanted: Sequence[str], faults: Faults) -> list[int]:
    for name in dict.fromkeys(n for n in names if names.count(n) > 1):
        faults.add("the header names this column twice", 1, name)
    for name in wanted:
        if name not in names:
            faults.add(
                "missing column", 1, name, allowed=f"the file has {', '.join(names)}", nearest=nearest(name, names)
            )
    faults.check()
    return [names.index(name) for name in wanted]


def _even(rows: list[list[str]], lines: Sequence[int], width: int, faults: Faults) -> tuple[list[list[str]], list[int]]:
    """Rows as wide as the header; blank lines are passed over, others noted."""
    kept, numbers = [], []
    for row, line in zip(rows, lines, strict=True):
        if len(row) == width:
            kept.append(row)
            numbers.append(line)
        elif row and any(field.strip() for field in row):
            faults.add("wrong number of fields", line, got=len(row), allowed=f"{width}, as in the header")
    return kept, numbers


def json_objects(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number and object of each line of a JSONL file; lines that do not parse are noted."""
    with open_text(path) as file:
        try:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    value = json.loads(text)
                except (json.JSONDecodeError, RecursionError) as error:
                    cut = not text.endswith("\n")
                    message = "the line is cut off" if cut else "not valid JSON"
                    faults.add(
                        f"{message} ({getattr(error, 'msg', 'nested too deeply')})", line, got=text.strip()[-40:]
                    )
                    continue
                if isinstance(value, dict):
                    yield line, value
                else:
                    faults.add("not a JSON object", line, got=value, allowed="one object per line")
        except UnicodeDecodeError:
            faults.fail("the file is not UTF-8 text")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            faults.fail(f"cannot read the file ({error})")


def missing_key(row: Mapping[str, Any], line: int, name: str, faults: Faults) -> None:
    """Note that an object of a JSONL file lacks a key."""
    has = f"the object has {', '.join(islice(row, 12))}"
    faults.add("missing key", line, name, allowed=has, nearest=nearest(name, row))


def check_order(arrival_s: Floats, lines: Sequence[int], before_s: float, column: str, faults: Faults) -> None:
    """Note the first row that arrives before the one above it.

    Rows are not sorted silently: out of order timestamps usually mean a wrong column or zone.

    Args:
        arrival_s: arrival times of a piece of the file, seconds.
        lines: their lines.
        before_s: the last arrival of the piece before.
        column: name of the time column.
        faults: where it is noted.
    """
    last = before_s
    if len(arrival_s) and (arrival_s[0] < last or bool((arrival_s[1:] < arrival_s[:-1]).any())):
        for value, line in zip(arrival_s.tolist(), lines, strict=True):
            if value < last:
                faults.fail(
                    "arrives earlier than the line above",
                    line,
                    column,
                    f"{last - value:.6g} s earlier",
                    "timestamps that do not decrease (sort the file)",
                )
            last = value
