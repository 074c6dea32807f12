"""Conversations: requests that follow one another, each prompt holding what was said before."""

from __future__ import annotations

import numpy as np

from windtunnel.workload.prefixes import Chains, take_segments
from windtunnel.workload.table import AT_ARRIVAL, Floats, Ints, RequestTable, request_table


def table_of_turns(
    turns: Ints,
    chains: Chains,
    output_tokens: Ints,
    start: tuple[Floats, Ints, Floats],
    think_s: Floats,
    tenant: Ints,
) -> RequestTable:
    """The request table of conversations whose rows are ordered by conversation, then turn.

    A later turn waits for the one before it and the think time; its `arrival_s` is the earliest
    possible: the conversation's start plus the think times so far.

    Args:
        turns: number of turns of each conversation, shape (s,).
        chains: prompts and what they consist of, shape (n,).
        output_tokens: shape (n,).
        start: arrival_s, after and delay_s of each conversation's first turn, shape (s,); `after`
            is a row here, in this order, or AT_ARRIVAL or AFTER_ANY.
        think_s: pause before each turn, ignored for first turns, shape (n,).
        tenant: of each conversation, shape (s,).
    """
    start_s, start_after, start_delay_s = start
    n = int(turns.sum())
    session = np.repeat(np.arange(len(turns)), turns)
    first_row = np.concatenate(([0], np.cumsum(turns)[:-1])).astype(np.int64)
    is_first = np.arange(n) == first_row[session]
    pause_s = np.where(is_first, 0.0, think_s)
    so_far_s = np.cumsum(pause_s)
    arrival_s = start_s[session] + np.maximum(so_far_s - so_far_s[first_row][session], 0.0)
    order = np.argsort(arrival_s, kind="stable")
    row_now = np.empty(n, dtype=np.int64)
    row_now[order] = np.arange(n)
    before = row_now[np.maximum(np.arange(n) - 1, 0)]
    starts = np.where(start_after >= 0, row_now[np.maximum(start_after, 0)], start_after)
    after = np.where(is_first, starts[session], before)
    delay_s = np.where(is_first, start_delay_s[session], pause_s)
    return request_table(
        arrival_s[order],
        chains.prompt_tokens[order],
        output_tokens[order],
        tenant=tenant[session][order],
        after=after[order],
        delay_s=delay_s[order],
        segments=take_segments(chains.segments, order),
        output_id=chains.output_id[order],
    )


def closed_starts(turns: Ints, think_s: Floats, users: int, pause_s: float) -> tuple[Floats, Ints, Floats]:
    """First turns of conversations that `users` hold one after another, dealt out in turn.

    Args:
        turns: number of turns of each conversation, shape (s,).
        think_s: pause before each turn, ignored for first turns, shape (n,).
        users: how many conversations go on at once.
        pause_s: between a user's conversations.

    Returns:
        arrival_s (earliest possible), after and delay_s of each conversation's first turn.
    """
    sessions = len(turns)
    last_row = np.cumsum(turns) - 1
    first_row = last_row - turns + 1
    pauses_s = think_s.astype(np.float64)
    pauses_s[first_row] = 0.0
    so_far_s = np.cumsum(pauses_s)
    length_s = np.maximum(so_far_s[last_row] - so_far_s[first_row], 0.0)
    start_s = np.zeros(sessions)
    for at in range(users, sessions, users):
        # Summed as the turns' own arrivals are, so that rounding puts none before its predecessor.
        row = np.arange(at, min(at + users, sessions))
        start_s[row] = start_s[row - users] + length_s[row - users] + pause_s
    after = np.full(sessions, AT_ARRIVAL, dtype=np.int64)
    after[users:] = last_row[: max(sessions - users, 0)]
    return start_s, after, np.where(after >= 0, pause_s, 0.0)


def link_sessions(session: Ints) -> Ints:
    """`after` of rows that belong to numbered sessions: the row of the same session before it.

    Args:
        session: number of each row's session in order of arrival, shape (n,); below 0 for none.
    """
    after = np.full(len(session), AT_ARRIVAL, dtype=np.int64)
    order = np.argsort(session, kind="stable")
    same = (session[order][1:] == session[order][:-1]) & (session[order][1:] >= 0)
    after[order[1:][same]] = order[:-1][same]
    return after
