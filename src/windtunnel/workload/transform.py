"""Cut, clip, repeat and merge request tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from windtunnel.workload.prefixes import Segments, take_segments
from windtunnel.workload.table import AT_ARRIVAL, Ints, RequestTable, request_table


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What clipping to a context limit took away.

    Attributes:
        max_context_tokens: the limit on prompt plus output.
        requests: how many requests there were.
        clipped_requests: how many were longer than the limit.
        prompt_tokens_cut: prompt tokens cut from their ends.
        output_tokens_cut: output tokens cut, where the output alone left no room for a prompt.
        tokens: prompt and output tokens before.
    """

    max_context_tokens: int
    requests: int
    clipped_requests: int
    prompt_tokens_cut: int
    output_tokens_cut: int
    tokens: int

    def notes(self) -> tuple[str, ...]:
        """A sentence for the user; empty when nothing was clipped."""
        if not self.clipped_requests:
            return ()
        cut = self.prompt_tokens_cut + self.output_tokens_cut
        return (
            f"{self.clipped_requests:,} of {self.requests:,} requests were clipped to "
            f"{self.max_context_tokens:,} tokens "
            f"({cut:,} tokens, {cut / self.tokens:.2%} of all: {self.prompt_tokens_cut:,} of prompts, "
            f"{self.output_tokens_cut:,} of outputs)",
        )


def clip(table: RequestTable, max_context_tokens: int) -> tuple[RequestTable, ClipReport]:
    """Requests cut so that prompt plus output fit a context limit.

    Prompts are cut first, from their end, so that the beginning which requests share stays as it
    is; an output is cut only where it would leave less than one token for the prompt. Segments
    beyond the cut are dropped and the one that crosses it is shortened.

    Args:
        table: the requests.
        max_context_tokens: most tokens of prompt plus output, at least 2.
    """
    if max_context_tokens < 2:
        raise ValueError("max_context_tokens must be at least 2, one for the prompt and one for the output")
    output = np.minimum(table.output_tokens, max_context_tokens - 1)
    prompt = np.minimum(table.prompt_tokens, max_context_tokens - output)
    too_long = table.prompt_tokens + table.output_tokens > max_context_tokens
    report = ClipReport(
        max_context_tokens,
        len(table),
        int(too_long.sum()),
        int((table.prompt_tokens - prompt).sum()),
        int((table.output_tokens - output).sum()),
        int((table.prompt_tokens + table.output_tokens).sum()),
    )
    if not report.clipped_requests:
        return table, report
    offset, ids, tokens = _cut(segments_of(table), prompt) if table.shares_prefixes else segments_of(table)
    clipped = replace(
        table, prompt_tokens=prompt, output_tokens=output, segment_offset=offset, segment_id=ids, segment_tokens=tokens
    )
    return clipped, report


def window(table: RequestTable, start_s: float = 0.0, end_s: float | None = None) -> RequestTable:
    """Requests that arrive from `start_s` to just before `end_s`; the window's start becomes time zero.

    A request that waited for one outside the window arrives at its own time.
    """
    end = np.inf if end_s is None else end_s
    rows = np.flatnonzero((table.arrival_s >= start_s) & (table.arrival_s < end))
    kept = take_rows(table, rows)
    return replace(kept, arrival_s=kept.arrival_s - start_s)


def first(table: RequestTable, n: int) -> RequestTable:
    """The first `n` requests (all, when there are fewer)."""
    return take_rows(table, np.arange(min(n, len(table)), dtype=np.int64))


def take_rows(table: RequestTable, rows: Ints) -> RequestTable:
    """Chosen rows in increasing order; links to rows that are left out become plain arrivals."""
    row_now = np.full(len(table) + 1, AT_ARRIVAL, dtype=np.int64)
    row_now[rows] = np.arange(len(rows))
    after = table.after[rows]
    linked = after >= 0
    after = np.where(linked, row_now[np.where(linked, after, 0)], after)
    delay_s = np.where(linked & (after < 0), 0.0, table.delay_s[rows])
    return request_table(
        table.arrival_s[rows],
        table.prompt_tokens[rows],
        table.output_tokens[rows],
        priority=table.priority[rows],
        tenant=table.tenant[rows],
        after=after,
        delay_s=delay_s,
        segments=take_segments(segments_of(table), rows) if table.shares_prefixes else None,
        output_id=table.output_id[rows] if table.shares_prefixes else None,
    )


def merge(tables: Sequence[RequestTable]) -> RequestTable:
    """Several workloads at once, sorted by arrival; table i's tenants are numbered apart from the others'.

    Contents are kept apart too: nothing is shared between tables. At equal times the earlier
    table comes first.
    """
    if not tables:
        raise ValueError("merge needs at least one table")
    sharing = any(table.shares_prefixes for table in tables)
    parts = [_with_segments(table) if sharing else table for table in tables]
    starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    arrival_s = np.concatenate([part.arrival_s for part in parts])
    order = np.argsort(arrival_s, kind="stable")
    row_now = np.empty(len(order), dtype=np.int64)
    row_now[order] = np.arange(len(order))
    after = np.concatenate(
        [np.where(part.after >= 0, part.after + at, part.after) for part, at in zip(parts, starts, strict=False)]
    )
    after = np.where(after >= 0, row_now[np.maximum(after, 0)], after)[order]
    tenant = _numbered_apart([part.tenant for part in parts])
    segments, output_id = _joined(parts) if sharing else (None, None)
    return request_table(
        arrival_s[order],
        np.concatenate([part.prompt_tokens for part in parts])[order],
        np.concatenate([part.output_tokens for part in parts])[order],
        priority=np.concatenate([part.priority for part in parts])[order],
        tenant=np.concatenate(tenant)[order],
        after=after,
        delay_s=np.concatenate([part.delay_s for part in parts])[order],
        segments=take_segments(segments, order) if segments else None,
        output_id=output_id[order] if output_id is not None else None,
    )


def tile(table: RequestTable, times: int, period_s: float | None = None) -> RequestTable:
    """The same traffic `times` over, one round after another, with the same contents.

    Args:
        table: the requests.
        times: how many rounds, at least 1.
        period_s: from one round's start to the next; by default the last arrival plus a mean gap.
    """
    if times < 1:
        raise ValueError("times must be at least 1")
    n = len(table)
    if period_s is None:
        period_s = table.duration_s + (1.0 / table.rate_per_s if table.rate_per_s else 0.0)
    if period_s < table.duration_s:
        raise ValueError("period_s must not be shorter than the table")
    shift = np.repeat(np.arange(times), n)
    rows = np.tile(np.arange(n), times)
    after = np.where(table.after[rows] >= 0, table.after[rows] + shift * n, table.after[rows])
    return request_table(
        table.arrival_s[rows] + shift * period_s,
        table.prompt_tokens[rows],
        table.output_tokens[rows],
        priority=table.priority[rows],
        tenant=table.tenant[rows],
        after=after,
        delay_s=table.delay_s[rows],
        segments=take_segments(segments_of(table), rows) if table.shares_prefixes else None,
        output_id=table.output_id[rows] if table.shares_prefixes else None,
    )


def segments_of(table: RequestTable) -> Segments:
    """A table's segments: offsets, content ids, tokens."""
    return table.segment_offset, table.segment_id, table.segment_tokens


def _cut(segments: Segments, prompt_tokens: Ints) -> Segments:
    """Each row's segments shortened from the end until they sum to `prompt_tokens`."""
    offset, ids, tokens = segments
    row = np.repeat(np.arange(len(prompt_tokens)), np.diff(offset))
    total = np.concatenate(([0], np.cumsum(tokens)))
    before = total[:-1] - total[offset[:-1]][row]  # tokens of the same row ahead of each segment
    kept = np.clip(prompt_tokens[row] - before, 0, tokens)
    here = kept > 0
    new_offset = np.concatenate(([0], np.cumsum(np.bincount(row[here], minlength=len(prompt_tokens)))))
    return new_offset.astype(np.int64), ids[here], kept[here]


def _with_segments(table: RequestTable) -> RequestTable:
    """A table that says what its prompts consist of: one segment of its own each, if it said nothing."""
    if table.shares_prefixes:
        return table
    rows: Ints = np.arange(len(table) + 1, dtype=np.int64)
    return replace(
        table,
        segment_offset=rows,
        segment_id=rows[:-1],
        segment_tokens=table.prompt_tokens,
        output_id=rows[:-1] + len(table),
    )


def _numbered_apart(columns: Sequence[Ints]) -> list[Ints]:
    """Columns of small numbers, each shifted beyond those before it."""
    shifted, base = [], 0
    for column in columns:
        shifted.append(column + base)
        base += int(column.max(initial=-1)) + 1
    return shifted


def _joined(parts: Sequence[RequestTable]) -> tuple[Segments, npt.NDArray[np.int64]]:
    ids = _numbered_apart([np.concatenate((part.segment_id, part.output_id)) for part in parts])
    lengths = np.concatenate([np.diff(part.segment_offset) for part in parts])
    offset = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    segment_id = np.concatenate([i[: len(part.segment_id)] for i, part in zip(ids, parts, strict=True)])
    output_id = np.concatenate([i[len(part.segment_id) :] for i, part in zip(ids, parts, strict=True)])
    return (offset, segment_id, np.concatenate([part.segment_tokens for part in parts])), output_id
