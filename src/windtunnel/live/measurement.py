"""What a load run measured: one row per request with the time of every token, kept in a folder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.errors import Problem, TraceError
from windtunnel.files import replace_whole, write_atomic

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OK = "ok"
REQUESTS, ENGINE, META, JOURNAL = "requests.parquet", "engine.parquet", "meta.json", "journal.jsonl"
"""The files of a measurement. The journal is there only while the run lasts, or after it was killed."""

_NUMBERS = ("due_s", "sent_s", "first_token_s", "finish_s")
_COUNTS = ("row", "prompt_tokens", "output_tokens", "prompt_reported", "output_received", "attempts")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Requests as columns, in order of the workload's rows. Times are seconds on one monotonic clock.

    Attributes:
        row: the workload's row.
        due_s: when the request was to be sent; every latency counts from here, so that a client or a
            server that falls behind cannot hide it (no coordinated omission).
        sent_s: when it was sent (of the last attempt).
        first_token_s, finish_s: arrival of the first and the last token; nan when there was none.
        prompt_tokens, output_tokens: what was asked for.
        prompt_reported: prompt tokens as the server counted them, -1 when it did not say.
        output_received: tokens received.
        attempts: how often it was sent.
        status: `ok`, or why it failed (`http 429`, `timeout`, `closed early`, ...).
        token_offset, token_s: the arrival of request i's tokens is token_s[token_offset[i]:token_offset[i + 1]].
        segment_offset, segment_id, segment_tokens: what each prompt consisted of, as in
            `windtunnel.workload.table.RequestTable`; empty when nothing was shared.
        meta: what was loaded and how; plain values.
        engine: the engine's own gauges over time by name, `time_s` among them; empty when it has none.
    """

    row: Ints
    due_s: Floats
    sent_s: Floats
    first_token_s: Floats
    finish_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    prompt_reported: Ints
    output_received: Ints
    attempts: Ints
    status: tuple[str, ...]
    token_offset: Ints
    token_s: Floats
    segment_offset: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    segment_id: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    segment_tokens: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    meta: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which requests were answered in full."""
        return np.array([status == OK for status in self.status], dtype=np.bool_)

    @property
    def ttft_s(self) -> Floats:
        """Time from due to the first token per request, nan where there was none."""
        return self.first_token_s - self.due_s

    @property
    def e2e_s(self) -> Floats:
        """Time from due to the last token per request, nan where it did not finish."""
        return np.where(self.ok, self.finish_s - self.due_s, np.nan)

    @property
    def tpot_s(self) -> Floats:
        """Mean time per output token after the first; nan for outputs of one token and for failures."""
        gaps = self.output_received - 1
        return np.where(self.ok & (gaps > 0), (self.finish_s - self.first_token_s) / np.maximum(gaps, 1), np.nan)

    @property
    def lag_s(self) -> Floats:
        """How late the client itself sent each request, seconds; small unless the client is overloaded."""
        return self.sent_s - self.due_s

    @property
    def duration_s(self) -> float:
        """From the first due time to the last token received."""
        ends = self.finish_s[np.isfinite(self.finish_s)]
        return float(ends.max() - self.due_s.min()) if len(ends) else 0.0

    def latency_s(self, metric: str) -> Floats:
        """`ttft`, `tpot` or `e2e` per request, nan where it has none."""
        values: Floats = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}[metric]
        return values


def measurement(
    records: Sequence[Mapping[str, Any]],
    meta: Mapping[str, Any] | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Measurement:
    """A `Measurement` from one mapping per request with the names of its columns; `token_s` is a list."""
    rows = sorted(records, key=lambda record: int(record["row"]))
    tokens = [np.asarray(record.get("token_s") or (), dtype=np.float64) for record in rows]

    def floats(name: str) -> Floats:
        return np.array([_number(record.get(name)) for record in rows], dtype=np.float64)

    def ints(name: str) -> Ints:
        return np.array([int(record.get(name, -1)) for record in rows], dtype=np.int64)

    columns: dict[str, Any] = {name: floats(name) for name in _NUMBERS} | {name: ints(name) for name in _COUNTS}
    if rows and rows[0].get("segments"):
        segments = [record["segments"] for record in rows]
        columns["segment_offset"] = np.cumsum([0, *(len(one) for one in segments)], dtype=np.int64)
        pairs = np.array([pair for one in segments for pair in one], dtype=np.int64).reshape(-1, 2)
        columns["segment_id"], columns["segment_tokens"] = pairs[:, 0].copy(), pairs[:, 1].copy()
    return Measurement(
        **columns,
        status=tuple(str(record["status"]) for record in rows),
        token_offset=np.cumsum([0, *(len(one) for one in tokens)], dtype=np.int64),
        token_s=np.concatenate(tokens) if tokens else np.zeros(0),
        meta=dict(meta or {}),
        engine={name: np.asarray(values, dtype=np.float64) for name, values in (engine or {}).items()},
    )


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def save(measured: Measurement, folder: Path | str) -> None:
    """Write the measurement's files into a folder, each whole or not at all; the journal goes last."""
    import polars

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {name: getattr(measured, name) for name in (*_COUNTS, *_NUMBERS)}
    columns["status"] = list(measured.status)
    offset = measured.token_offset
    columns["token_s"] = [measured.token_s[a:b].tolist() for a, b in itertools.pairwise(offset.tolist())]
    schema: dict[str, Any] = {"token_s": polars.List(polars.Float64)}
    if len(measured.segment_offset):
        pairs = np.stack([measured.segment_id, measured.segment_tokens], axis=1).tolist()
        columns["segments"] = [pairs[a:b] for a, b in itertools.pairwise(measured.segment_offset.tolist())]
        schema["segments"] = polars.List(polars.List(polars.Int64))
    replace_whole(target / REQUESTS, polars.DataFrame(columns, schema_overrides=schema).write_parquet)
    if measured.engine:
        replace_whole(target / ENGINE, polars.DataFrame(dict(measured.engine)).write_parquet)
    write_atomic(target / META, json.dumps(dict(measured.meta), indent=2, ensure_ascii=False) + "\n")
    (target / JOURNAL).unlink(missing_ok=True)


def load(folder: Path | str) -> Measurement:
    """Read a measurement's folder; one whose run was killed is read from its journal.

    Raises:
        TraceError: the folder holds no measurement, or a broken one.
    """
    source = Path(folder)
    meta = _meta(source / META)
    if (source / REQUESTS).is_file():
        return measurement(_records(source / REQUESTS), meta, _engine(source / ENGINE))
    if (source / JOURNAL).is_file():
        records = _journal(source / JOURNAL)
        note = f"recovered from the journal of a run that did not end: {len(records):,} requests"
        return measurement(records, {**meta, "notes": [*meta.get("notes", []), note]})
    raise TraceError(
        Problem("holds no measurement", str(folder), allowed=f"a folder with {REQUESTS} or {JOURNAL}, from `bench`")
    )


def _records(path: Path) -> list[dict[str, Any]]:
    import polars

    try:
        frame = polars.read_parquet(path)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise TraceError(Problem(f"cannot be read: {error}", str(path))) from None
    missing = {*_COUNTS, *_NUMBERS, "status", "token_s"} - set(frame.columns)
    if missing:
        raise TraceError([Problem("column missing", str(path), name) for name in sorted(missing)])
    return frame.to_dicts()


def _engine(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import polars

    return {column.name: column.to_numpy() for column in polars.read_parquet(path)}


def _meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TraceError(Problem(f"is not JSON: {error}", str(path))) from None
    return found if isinstance(found, dict) else {}


def _journal(path: Path) -> list[dict[str, Any]]:
    """The journal's records; a last line that was cut off by the end of the process is left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise TraceError(Problem("is not JSON", str(path), f"line {number}")) from None
    return found
