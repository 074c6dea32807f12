"""Traces with named columns: which column holds what, and their values as a table.

CSV, JSONL and Parquet share this. Names are matched without regard to case, spaces, dashes and
underscores.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from windtunnel.errors import nearest
from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.numbers import NO_LIMIT, dates, is_number, reals, whole
from windtunnel.workload.formats.trace import Rows, Trace, check_order
from windtunnel.workload.sessions import link_sessions
from windtunnel.workload.table import Ints, request_table

PROMPT = (
    *("prompt_tokens", "input_tokens", "input_length", "input_len", "prompt_len", "prompt_length", "input_toks"),
    *("num_prefill_tokens", "prompt_tokens_count", "ContextTokens", "Request tokens", "isl"),
)
OUTPUT = (
    *("output_tokens", "generated_tokens", "output_length", "output_len", "completion_tokens", "output_toks"),
    *("num_decode_tokens", "output_tokens_count", "GeneratedTokens", "Response tokens", "osl"),
)
UNIT_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_STEMS = ("arrival", "arrival_time", "timestamp", "time")
ARRIVAL: dict[str, float] = {
    **{f"{stem}_{unit}": size for stem in _STEMS for unit, size in UNIT_S.items()},
    **dict.fromkeys(("arrival", "arrival_time", "arrived_at", "timestamp", "time", "start_time"), 1.0),
    "StartTimeOffset": 1e-9,
}
"""Names of time columns and their unit in seconds; one without a unit is in seconds, or holds dates."""

KNOWN: dict[str, tuple[str, ...]] = {
    "arrival_s": tuple(ARRIVAL),
    "prompt_tokens": PROMPT,
    "output_tokens": OUTPUT,
    "session": ("session", "session_id", "conversation_id"),
    "tenant": ("tenant", "tenant_id", "user", "user_id"),
    "priority": ("priority",),
}
NEEDED = ("arrival_s", "prompt_tokens", "output_tokens")

_UNTIMED = ("prompt_tokens_count", "output_tokens_count")
_EPOCH_S = 1e8
"""A first time beyond this is a date in seconds since 1970, not an offset."""


def match_columns(names: Sequence[str], given: Mapping[str, str], faults: Faults) -> dict[str, str]:
    """Which of the file's columns holds what.

    Args:
        names: the file's columns.
        given: what the user said: meaning to column.
        faults: where faults are noted; anything missing raises.
    """
    for name in dict.fromkeys(n for n in names if names.count(n) > 1):
        faults.add("the header names this column twice", 1, name)
    plain = {_plain(name): name for name in names}
    found: dict[str, str] = {}
    for meaning, column in given.items():
        if meaning not in KNOWN:
            faults.add(
                "unknown meaning of a column", 0, meaning, allowed=", ".join(KNOWN), nearest=nearest(meaning, KNOWN)
            )
        elif column not in names:
            faults.add(
                "missing column", 1, column, allowed=f"the file has {_listed(names)}", nearest=nearest(column, names)
            )
        else:
            found[meaning] = column
    for meaning, aliases in KNOWN.items():
        column = next((plain[_plain(alias)] for alias in aliases if _plain(alias) in plain), "")
        if column and meaning not in given:
            found[meaning] = column
    untimed = any(name in names for name in _UNTIMED)  # GuideLLM data sets have lengths only
    for meaning in NEEDED:
        if meaning not in found and meaning not in given and not (meaning == "arrival_s" and untimed):
            close = next((near for alias in KNOWN[meaning] if (near := nearest(alias, names))), "")
            has = f"one of {', '.join(KNOWN[meaning][:6])}; the file has {_listed(names)}"
            faults.add("missing column", 1, meaning, allowed=has, nearest=close)
    faults.check()
    return found


@dataclass
class _Parts:
    arrival_s: list[Any] = field(default_factory=list)
    prompt: list[Any] = field(default_factory=list)
    output: list[Any] = field(default_factory=list)
    extra: dict[str, list[Any]] = field(default_factory=dict)


def table_of_columns(pieces: Iterable[Rows], found: Mapping[str, str], format: str, faults: Faults) -> Trace:
    """The trace in pieces of rows.

    Args:
        pieces: the rows, with the columns named in `found`.
        found: what each column holds, from `match_columns`.
        format: name of the format.
        faults: where faults are noted.
    """
    parts = _Parts()
    names: dict[str, dict[Any, int]] = {"session": {}, "tenant": {}}  # the number of each name so far
    start_s, last_s = None, 0.0
    for rows in pieces:
        parts.prompt.append(_whole(rows, found["prompt_tokens"], faults))
        parts.output.append(_whole(rows, found["output_tokens"], faults))
        if "arrival_s" in found:
            before = len(faults.problems)
            arrival_s, is_date = _times(rows, found["arrival_s"], faults)
            if start_s is None:
                start_s = float(arrival_s[0]) if is_date or arrival_s[0] > _EPOCH_S else 0.0
                last_s = start_s
            if len(faults.problems) == before:
                check_order(arrival_s, rows.lines, last_s, found["arrival_s"], faults)
            last_s = float(arrival_s[-1])
            parts.arrival_s.append(arrival_s - start_s)
        for meaning, seen in names.items():
            if meaning in found:
                parts.extra.setdefault(meaning, []).append(_numbered(rows.columns[found[meaning]], seen))
        if "priority" in found:
            priority = rows.columns[found["priority"]]
            numbers = whole(priority, rows.lines, found["priority"], faults, least=-NO_LIMIT, most=NO_LIMIT)
            parts.extra.setdefault("priority", []).append(numbers)
    faults.check()
    if not parts.prompt:
        faults.fail("the trace has no requests")
    return _assembled(parts, format)


def _assembled(parts: _Parts, format: str) -> Trace:
    prompt, output = np.concatenate(parts.prompt), np.concatenate(parts.output)
    extra = {meaning: np.concatenate(arrays) for meaning, arrays in parts.extra.items()}
    notes: list[str] = []
    if parts.arrival_s:
        arrival_s = np.concatenate(parts.arrival_s)
    else:
        arrival_s = np.zeros(len(prompt))
        notes.append("the file has no times: every request comes at zero")
    if "session" in extra:
        notes.append("a session's request waits for the one before it; what their prompts share is not recorded")
    table = request_table(
        arrival_s,
        prompt,
        output,
        priority=extra.get("priority"),
        tenant=np.maximum(extra["tenant"], 0) if "tenant" in extra else None,
        after=link_sessions(extra["session"]) if "session" in extra else None,
    )
    return Trace(table, format, tuple(notes))


def _numbered(values: Sequence[Any], seen: dict[Any, int]) -> Ints:
    """Names numbered in order of appearance; -1 for none."""
    numbers = [-1 if value in (None, "") else seen.setdefault(str(value), len(seen)) for value in values]
    return np.array(numbers, dtype=np.int64)


def _whole(rows: Rows, column: str, faults: Faults) -> Any:
    return whole(rows.columns[column], rows.lines, column, faults)


def _times(rows: Rows, column: str, faults: Faults) -> tuple[Any, bool]:
    """Times in seconds, and whether they are dates."""
    values = rows.columns[column]
    if is_number(values[0]) or values[0] in (None, ""):
        plain = {_plain(name): unit_s for name, unit_s in ARRIVAL.items()}
        return reals(values, rows.lines, column, faults) * plain.get(_plain(column), 1.0), False
    return dates(values, rows.lines, column, faults) / 1e9, True


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "").replace("_", "").replace("-", "")


def _listed(names: Sequence[str]) -> str:
    shown = list(itertools.islice(names, 12))
    return ", ".join(shown) + (" ..." if len(names) > len(shown) else "")
