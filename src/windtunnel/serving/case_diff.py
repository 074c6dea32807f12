"""Where two replays of a scheduler case part: the first differing line and the state around it."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import CaseError, Problem, shorten

TOLERANCE = 1e-9
"""Numbers closer than this are the same."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line in which two replays differ.

    Attributes:
        line: its number, from 1.
        fields: what differs: (path, got, expected); a missing value is the text `absent`.
        before: the last line on which both agree, None when there is none.
        got: our line, None when ours ended.
        expected: the other line, None when that ended.
    """

    line: int
    fields: tuple[tuple[str, Any, Any], ...]
    before: dict[str, Any] | None
    got: dict[str, Any] | None
    expected: dict[str, Any] | None

    def __str__(self) -> str:
        what = self.got or self.expected or {}
        name = f"step {what['step']}" if "step" in what else "the table of requests"
        lines = [f"first difference in line {self.line} ({name}):"]
        lines += [f"  {path}: got {shorten(a)}, expected {shorten(b)}" for path, a, b in self.fields[:12]]
        if len(self.fields) > 12:
            lines.append(f"  and {len(self.fields) - 12} more fields")
        if self.before is not None:
            lines.append(f"  after the step before: {_state(self.before)}")
        for title, record in (("ours", self.got), ("expected", self.expected)):
            lines.append(f"  {title}: " + ("ended" if record is None else _state(record)))
        return "\n".join(lines)


def _state(record: dict[str, Any]) -> str:
    if "step" not in record:
        return shorten(record, 200)
    scheduled = record.get("scheduled", {})
    served = ", ".join(f"{k}:{v}" for k, v in list(scheduled.items())[:24]) + (", ..." if len(scheduled) > 24 else "")
    return (
        f"step {record['step']} from {record.get('start')} to {record.get('end')}, served {{{served}}}, "
        f"preempted {record.get('preempted')}, finished {record.get('finished')}, running {record.get('running')}, "
        f"waiting {record.get('waiting')}, free blocks {record.get('free_blocks')}"
    )


def first_difference(got: Iterable[dict[str, Any]], expected: Iterable[dict[str, Any]]) -> Difference | None:
    """The first line in which two replays differ, or None when they are the same."""
    before: dict[str, Any] | None = None
    for line, (a, b) in enumerate(itertools.zip_longest(got, expected), start=1):
        fields = tuple(_differing("", a, b))
        if fields:
            return Difference(line, fields, before, a, b)
        before = a
    return None


def _differing(path: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = [*a, *(name for name in b if name not in a)]
        pairs = [(f"{path}.{name}" if path else name, a.get(name, "absent"), b.get(name, "absent")) for name in names]
        return [leaf for pair in pairs for leaf in _differing(*pair)]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and any(isinstance(x, dict) for x in a):
        return [leaf for i, (x, y) in enumerate(zip(a, b, strict=True)) for leaf in _differing(f"{path}[{i}]", x, y)]
    if _is_number(a) and _is_number(b):
        return [] if a == b or math.isclose(a, b, rel_tol=0.0, abs_tol=TOLERANCE) else [(path, a, b)]
    return [] if a == b else [(path or "line", a, b)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a replay from a file (gzip when its name ends in .gz).

    Raises:
        CaseError: the file cannot be read or a line is not a JSON object.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text or gzip file"
        raise CaseError(Problem(f"cannot be read ({reason})", file=str(path))) from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CaseError(Problem(f"is not valid JSON ({error.msg})", str(path), f"line {number}")) from None
        if not isinstance(record, dict):
            raise CaseError(Problem("must be a JSON object", str(path), f"line {number}", shorten(record)))
        records.append(record)
    return records
