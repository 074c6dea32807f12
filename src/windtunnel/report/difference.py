"""Compare two lists of JSON records and say where they first part."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import CaseError, Problem, shorten

TOLERANCE = 1e-9
"""Numbers this close count as equal: clocks differ by rounding between compilers."""


def read_json_lines(path: Path) -> list[Any]:
    """The records of a JSON lines file, gzipped or not.

    Raises:
        CaseError: the file cannot be read; names the line.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except OSError as error:
        raise CaseError(Problem(f"cannot be read ({error.strerror or error})", str(path))) from None
    except (EOFError, UnicodeDecodeError):
        raise CaseError(Problem("is neither text nor a whole gzip file", str(path))) from None
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise CaseError(Problem(f"is not valid JSON ({error})", str(path), f"line {number}")) from None
    return records


def first_difference(got: Sequence[Any], expected: Sequence[Any]) -> str:
    """Where two lists of records first differ, in one sentence; empty when they do not."""
    for number, (mine, theirs) in enumerate(zip(got, expected, strict=False), 1):
        found = _differs(mine, theirs, "")
        if found:
            return f"line {number}{found}"
    if len(got) != len(expected):
        return f"{len(got)} lines, expected {len(expected)}"
    return ""


def _differs(got: Any, expected: Any, path: str) -> str:
    if _numeric(got) and _numeric(expected):
        return "" if abs(got - expected) < TOLERANCE else _said(got, expected, path)
    if isinstance(got, dict) and isinstance(expected, dict):
        for key in dict.fromkeys([*got, *expected]):
            if key not in got or key not in expected:
                where = "is missing" if key not in got else "is not expected"
                return f"{path}.{key} {where}"
            found = _differs(got[key], expected[key], f"{path}.{key}")
            if found:
                return found
        return ""
    if isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        parts = (_differs(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(got, expected, strict=True)))
        return next(filter(None, parts), "")
    return "" if got == expected else _said(got, expected, path)


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _said(got: Any, expected: Any, path: str) -> str:
    return f"{path}: got {shorten(got)}, expected {shorten(expected)}"
