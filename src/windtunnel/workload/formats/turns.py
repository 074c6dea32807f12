"""Recorded conversations: rows with a session, a time or a pause, and the new text of each turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.trace import check_order
from windtunnel.workload.prefixes import chain_turns
from windtunnel.workload.sessions import table_of_turns
from windtunnel.workload.table import AT_ARRIVAL, Floats, Ints, RequestTable

Turns = tuple[list[Any], Floats, npt.NDArray[np.bool_], Floats]
"""Of each row: session (None: on its own), time, whether the time is known, pause before it."""


def table_of_recorded_turns(
    lines: list[int], turns: Turns, text_tokens: Ints, output_tokens: Ints, column: str, faults: Faults
) -> tuple[RequestTable, str, tuple[str, ...]]:
    """The table of an AIPerf-style trace, whose prompts are the history plus the new text.

    First turns without a time start at zero. A later turn with a time keeps its recorded distance
    from the turn before it as the pause.

    Args:
        lines: line of each row.
        turns: sessions, times and pauses.
        text_tokens: new prompt text of each row.
        output_tokens: of each row.
        column: name of the time column.
        faults: where faults are noted.

    Returns:
        The table, the name of the format, and notes.
    """
    session, time_s, known, delay_s = turns
    number: dict[Any, int] = {}
    which = np.array(
        [number.setdefault(("row", i) if s is None else str(s), len(number)) for i, s in enumerate(session)]
    )
    order = np.argsort(which, kind="stable")
    count = np.bincount(which)
    first = np.concatenate(([0], np.cumsum(count)[:-1])).astype(np.int64)
    starts = order[first]
    check_order(time_s[starts], [lines[i] for i in starts], 0.0, column, faults)
    before = order[np.maximum(np.arange(len(order)) - 1, 0)]
    gap_s = time_s[order] - time_s[before]
    timed = known[order] & known[before] & (delay_s[order] == 0)
    is_later = np.ones(len(order), dtype=bool)
    is_later[first] = False
    backwards = np.flatnonzero(timed & is_later & (gap_s < 0))
    if len(backwards):
        at = int(backwards[0])
        allowed = "timestamps that do not decrease within a session"
        faults.fail(
            "arrives earlier than the turn before it", lines[order[at]], column, float(time_s[order[at]]), allowed
        )
    none = np.zeros(len(count), dtype=np.int64)
    table = table_of_turns(
        count,
        chain_turns(count, text_tokens[order], output_tokens[order], none, none),
        output_tokens[order],
        (time_s[starts], np.full(len(count), AT_ARRIVAL, dtype=np.int64), np.zeros(len(count))),
        np.where(timed & is_later, gap_s, delay_s[order]),
        none,
    )
    note = "each turn's prompt is taken as the session's history plus its input_length"
    return table, "mooncake", (note,)
