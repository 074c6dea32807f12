"""What prompts consist of: chains of segments whose shared beginnings a prefix cache can reuse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.workload.table import Ints

Segments = tuple[Ints, Ints, Ints]
"""Offsets, content ids and tokens of segments, as in `RequestTable`."""


@dataclass(frozen=True, slots=True)
class Chains:
    """Prompts of conversations, with the content id of each output.

    Attributes:
        prompt_tokens: whole prompt of each row: system prompt, history and new text.
        segments: what the prompts consist of.
        output_id: content id of each row's output, found again in the next turn's history.
    """

    prompt_tokens: Ints
    segments: Segments
    output_id: Ints


def chain_turns(turns: Ints, text_tokens: Ints, output_tokens: Ints, system_id: Ints, system_tokens: Ints) -> Chains:
    """Prompts that grow turn by turn: system prompt, then text and output of every turn so far.

    Rows are ordered by conversation, then turn.

    Args:
        turns: number of turns of each conversation, at least 1, shape (s,).
        text_tokens: new text of each turn, shape (n,), n = sum of turns.
        output_tokens: output of each turn, shape (n,).
        system_id: content id of each conversation's system prompt, 0 to s - 1, shape (s,).
        system_tokens: its length, 0 where there is none, shape (s,).
    """
    n, sessions = len(text_tokens), len(turns)
    has_system = (system_tokens > 0).astype(np.int64)
    first_row = np.concatenate(([0], np.cumsum(turns)[:-1])).astype(np.int64)
    session = np.repeat(np.arange(sessions), turns)
    turn = np.arange(n) - first_row[session]
    # the whole of a conversation, laid out once: [system] text output text output ...
    start = np.concatenate(([0], np.cumsum(2 * turns + has_system)[:-1])).astype(np.int64)
    ids = np.zeros(int(np.sum(2 * turns + has_system)), dtype=np.int64)
    tokens = np.zeros_like(ids)
    text_at = start[session] + has_system[session] + 2 * turn
    base = int(system_id.max(initial=-1)) + 1
    ids[start[has_system > 0]], tokens[start[has_system > 0]] = system_id[has_system > 0], system_tokens[has_system > 0]
    ids[text_at], tokens[text_at] = base + 2 * np.arange(n), text_tokens
    ids[text_at + 1], tokens[text_at + 1] = base + 2 * np.arange(n) + 1, output_tokens
    # a prompt is that layout up to and including its own text
    length = text_at - start[session] + 1
    offset = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
    picked = np.arange(offset[-1]) - np.repeat(offset[:-1] - start[session], length)
    before = np.concatenate(([0], np.cumsum(tokens)))
    prompt_tokens = before[text_at + 1] - before[start[session]]
    return Chains(prompt_tokens, (offset, ids[picked], tokens[picked]), base + 2 * np.arange(n) + 1)


def take_segments(segments: Segments, rows: Ints) -> Segments:
    """The segments of chosen rows, in the order of `rows`."""
    offset, ids, tokens = segments
    length = (offset[1:] - offset[:-1])[rows]
    new_offset = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
    picked = np.arange(new_offset[-1]) + np.repeat(offset[:-1][rows] - new_offset[:-1], length)
    return new_offset, ids[picked], tokens[picked]
