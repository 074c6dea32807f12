"""The request table: one row per request, the form every reader and generator ends in.

Besides arrival and lengths a row may say *what* its prompt consists of, as a chain of
segments `(content id, tokens)`. Two requests share a prefix exactly as far as their chains
agree, which is what prefix caching works on: system prompts, the growing history of a chat
session, the block hashes of a trace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

AT_ARRIVAL = -1
"""`after`: the request arrives at its own `arrival_s`."""
AFTER_ANY = -2
"""`after`: the request arrives `delay_s` after some other request finishes (closed loop)."""


@dataclass(frozen=True, slots=True)
class RequestTable:
    """Requests as columns, sorted by arrival.

    Attributes:
        arrival_s: arrival time in seconds from the start, shape (n,), not decreasing.
            For a request with `after >= 0` or `AFTER_ANY` it is the earliest possible arrival.
        prompt_tokens: tokens of the prompt, shape (n,), at least 1.
        output_tokens: tokens to generate, shape (n,), at least 1.
        priority: smaller is served first under priority scheduling, shape (n,).
        tenant: who sent it, a small number, shape (n,).
        after: AT_ARRIVAL, AFTER_ANY, or the row that must finish first (sessions), shape (n,).
        delay_s: think time between that finish and this arrival, seconds, shape (n,).
        segment_offset: row i's segments are segment_offset[i]:segment_offset[i + 1], shape
            (n + 1,). Empty arrays (length 0) throughout mean that nothing is shared.
        segment_id: content id of each segment; equal ids are equal content from their start.
        segment_tokens: tokens of each segment; a row's segments sum to its prompt_tokens.
        output_id: content id of what the request generates, shape (n,) or empty.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    priority: Ints
    tenant: Ints
    after: Ints
    delay_s: Floats
    segment_offset: Ints
    segment_id: Ints
    segment_tokens: Ints
    output_id: Ints

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def shares_prefixes(self) -> bool:
        """Whether the rows say what their prompts consist of."""
        return len(self.segment_offset) > 0

    @property
    def duration_s(self) -> float:
        """Time from zero to the last arrival, in seconds."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate over the span of arrivals, requests per second (0 if all at once)."""
        span_s = float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span_s if span_s > 0 else 0.0

    def with_rate(self, factor: float) -> RequestTable:
        """The same requests arriving `factor` times as fast (think times are kept)."""
        return replace(self, arrival_s=self.arrival_s / factor)


def request_table(
    arrival_s: npt.ArrayLike,
    prompt_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    *,
    priority: npt.ArrayLike | None = None,
    tenant: npt.ArrayLike | None = None,
    after: npt.ArrayLike | None = None,
    delay_s: npt.ArrayLike | None = None,
    segments: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike] | None = None,
    output_id: npt.ArrayLike | None = None,
) -> RequestTable:
    """A `RequestTable` from its columns, the missing ones filled with defaults.

    Args:
        arrival_s: seconds, shape (n,), not decreasing.
        prompt_tokens: shape (n,), at least 1.
        output_tokens: shape (n,), at least 1.
        priority: default 0.
        tenant: default 0.
        after: default AT_ARRIVAL.
        delay_s: default 0.
        segments: (offset, id, tokens) as described in `RequestTable`; default nothing shared.
        output_id: content ids of the outputs; default unique when segments are given.

    Raises:
        ValueError: lengths differ, arrivals decrease, or a length is below 1.
    """
    arrival = np.ascontiguousarray(arrival_s, dtype=np.float64)
    n = len(arrival)

    def ints(values: npt.ArrayLike | None, default: int) -> Ints:
        return np.full(n, default, dtype=np.int64) if values is None else np.ascontiguousarray(values, dtype=np.int64)

    none = np.zeros(0, dtype=np.int64)
    offset, ids, tokens = (
        (np.ascontiguousarray(c, dtype=np.int64) for c in segments) if segments else (none, none, none)
    )
    if output_id is None and segments is not None:
        output_id = np.arange(n, dtype=np.int64) + (int(ids.max(initial=0)) + 1)
    table = RequestTable(
        arrival_s=arrival,
        prompt_tokens=ints(prompt_tokens, 1),
        output_tokens=ints(output_tokens, 1),
        priority=ints(priority, 0),
        tenant=ints(tenant, 0),
        after=ints(after, AT_ARRIVAL),
        delay_s=np.zeros(n) if delay_s is None else np.ascontiguousarray(delay_s, dtype=np.float64),
        segment_offset=offset,
        segment_id=ids,
        segment_tokens=tokens,
        output_id=none if output_id is None else np.ascontiguousarray(output_id, dtype=np.int64),
    )
    _check(table)
    return table


def _check(table: RequestTable) -> None:
    n = len(table)
    for name in ("prompt_tokens", "output_tokens", "priority", "tenant", "after", "delay_s"):
        if len(getattr(table, name)) != n:
            raise ValueError(f"column {name} has {len(getattr(table, name))} rows, arrival_s has {n}")
    if n and (np.any(np.diff(table.arrival_s) < 0) or not np.all(np.isfinite(table.arrival_s))):
        raise ValueError("arrival_s must be finite and must not decrease")
    if n and (table.prompt_tokens.min() < 1 or table.output_tokens.min() < 1):
        raise ValueError("prompt_tokens and output_tokens must be at least 1")
    if np.any(table.after >= np.arange(n)):
        raise ValueError("a request can only come after an earlier row")
    if table.shares_prefixes:
        sums = (
            np.add.reduceat(np.append(table.segment_tokens, 0), table.segment_offset[:-1])
            if n
            else table.segment_tokens
        )
        if len(table.segment_offset) != n + 1 or not np.array_equal(sums, table.prompt_tokens):
            raise ValueError("the segments of each row must sum to its prompt_tokens")
