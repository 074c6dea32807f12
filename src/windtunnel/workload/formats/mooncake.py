"""Mooncake, AIPerf and Bailian traces: JSONL with lengths and the hashes of prompt blocks.

    {"timestamp": 27, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1, ...]}

Sources: Qin et al., "Mooncake", FAST 2025, released with `timestamp` in milliseconds and one hash
id per block of 512 prompt tokens, the last one partial; AIPerf adds `session_id` and `delay`
(milliseconds after the turn before it) and, without hash ids, lets each turn's prompt be the
history plus `input_length` new tokens; Bailian (Alibaba) has `chat_id`, seconds and blocks of 16.
Equal hash ids at the same place are equal content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.numbers import reals, whole
from windtunnel.workload.formats.trace import Trace, check_order, json_objects, missing_key
from windtunnel.workload.formats.turns import table_of_recorded_turns
from windtunnel.workload.table import Ints, request_table

BLOCK_SIZES = (512, 16, 32, 64, 128, 256, 1024, 2048, 4096)
"""Tokens per hashed block: the first of these that fits the first row is taken for the file."""

_LARGEST_HASH = 2**62


@dataclass
class _Columns:
    lines: list[int] = field(default_factory=list)
    timestamp: list[Any] = field(default_factory=list)
    prompt: list[Any] = field(default_factory=list)
    output: list[Any] = field(default_factory=list)
    session: list[Any] = field(default_factory=list)
    delay: list[Any] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    hash_count: list[int] = field(default_factory=list)


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read a Mooncake-style trace; times are kept as they are in the file.

    Args:
        path: the JSONL file.
        columns: unused; the format fixes its keys.
    """
    faults = Faults(str(path))
    read_columns, in_seconds = _collect(path, faults)
    if not read_columns.lines:
        faults.check()
        faults.fail("the trace has no requests")
    lines = read_columns.lines
    prompt = whole(read_columns.prompt, lines, "input_length", faults)
    output = whole(read_columns.output, lines, "output_length", faults)
    unit_s = 1.0 if in_seconds else 1e-3
    unit = "seconds" if in_seconds else "milliseconds"
    delay_s = reals([d or 0 for d in read_columns.delay], lines, "delay", faults, unit=unit) * unit_s
    times = [0 if t is None else t for t in read_columns.timestamp]
    arrival_s = reals(times, lines, "timestamp", faults, unit=unit) * unit_s
    known = np.array([t is not None for t in read_columns.timestamp])
    hashed = any(read_columns.hash_count)
    segments = _segments(read_columns, prompt, faults) if hashed else None
    faults.check()
    if any(session is not None for session in read_columns.session) and not hashed:
        turns = (read_columns.session, arrival_s, known, delay_s)
        return Trace(*table_of_recorded_turns(lines, turns, prompt, output, "timestamp", faults))
    if not known.all():
        faults.fail("missing key", lines[int(np.argmin(known))], "timestamp", allowed="a time in milliseconds")
    check_order(arrival_s, lines, 0.0, "timestamp", faults)
    return Trace(request_table(arrival_s, prompt, output, segments=segments), "mooncake")


def _collect(path: Path, faults: Faults) -> tuple[_Columns, bool]:
    """The columns of the file, and whether its times are seconds (Bailian)."""
    found = _Columns()
    in_seconds = False
    for line, row in json_objects(path, faults):
        missing = [name for name in ("input_length", "output_length") if name not in row]
        if missing:
            for name in missing:
                missing_key(row, line, name, faults)
            continue
        in_seconds = in_seconds or "chat_id" in row
        if "timestamp" not in row and "session_id" not in row and "delay" not in row:
            missing_key(row, line, "timestamp", faults)
            continue
        hashes = row.get("hash_ids") or []
        if not _are_hashes(hashes):
            faults.add("not a list of block ids", line, "hash_ids", hashes, "whole numbers from 0 to 2**62")
            hashes = []
        found.lines.append(line)
        found.timestamp.append(row.get("timestamp"))
        found.prompt.append(row["input_length"])
        found.output.append(row["output_length"])
        found.session.append(row.get("session_id"))
        found.delay.append(row.get("delay"))
        found.hashes.extend(hashes)
        found.hash_count.append(len(hashes))
    return found, in_seconds


def _are_hashes(hashes: Any) -> bool:
    return isinstance(hashes, list) and all(type(h) is int and 0 <= h <= _LARGEST_HASH for h in hashes)


def _segments(found: _Columns, prompt: Ints, faults: Faults) -> tuple[Ints, Ints, Ints]:
    """Blocks as segments, the last of a row partial; a row without hashes is one segment of its own."""
    count = np.array(found.hash_count, dtype=np.int64)
    first = int(np.argmax(count > 0))
    fitting = (size for size in BLOCK_SIZES if -(-int(prompt[first]) // size) == count[first])
    block = next(fitting, BLOCK_SIZES[0])
    needed = -(-prompt // block)
    for row in np.flatnonzero((count > 0) & (count != needed))[:20].tolist():
        allowed = f"{needed[row]}, one per {block} tokens of the prompt"
        faults.add("wrong number of block ids", found.lines[row], "hash_ids", int(count[row]), allowed)
    faults.check()
    length = np.maximum(count, 1)
    offset = np.concatenate(([0], np.cumsum(length))).astype(np.int64)
    tokens = np.full(int(offset[-1]), block, dtype=np.int64)
    tokens[offset[1:] - 1] = prompt - (length - 1) * block
    hashes, ids = np.unique(np.array(found.hashes, dtype=np.int64), return_inverse=True)
    own = np.repeat(count == 0, length)
    all_ids = np.empty(len(tokens), dtype=np.int64)
    all_ids[~own] = ids
    all_ids[own] = len(hashes) + np.arange(int(own.sum()))
    return offset, all_ids, tokens
