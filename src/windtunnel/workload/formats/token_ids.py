"""Requests with the ids of their tokens: JSONL with input_tok_ids, output_toks, arrival_time_ns.

Equal beginnings are found in blocks of `BLOCK_TOKENS`, the unit in which engines cache prefixes;
each block's content id stands for the block and all before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.numbers import reals, whole
from windtunnel.workload.formats.trace import Trace, check_order, json_objects, missing_key
from windtunnel.workload.table import request_table

BLOCK_TOKENS = 16
"""Tokens per segment, the block size of vLLM's KV cache."""


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read requests with token ids; times are kept as they are in the file.

    Args:
        path: the JSONL file.
        columns: unused; the format fixes its keys.
    """
    faults = Faults(str(path))
    lines: list[int] = []
    times: list[Any] = []
    outputs: list[Any] = []
    prompt: list[int] = []
    offset, ids, tokens = [0], [], []
    blocks: dict[tuple[int, tuple[Any, ...]], int] = {}
    for line, row in json_objects(path, faults):
        text = row.get("input_tok_ids")
        missing = [name for name in ("output_toks", "arrival_time_ns") if name not in row]
        if not isinstance(text, list) or not text or not all(type(token) is int for token in text):
            faults.add("not a list of token ids", line, "input_tok_ids", text, "whole numbers, at least one")
            continue
        for name in missing:
            missing_key(row, line, name, faults)
        if missing:
            continue
        lines.append(line)
        times.append(row["arrival_time_ns"])
        outputs.append(row["output_toks"])
        prompt.append(len(text))
        before = -1
        for start in range(0, len(text), BLOCK_TOKENS):
            block = tuple(text[start : start + BLOCK_TOKENS])
            before = blocks.setdefault((before, block), len(blocks))
            ids.append(before)
            tokens.append(len(block))
        offset.append(len(ids))
    arrival_s = reals(times, lines, "arrival_time_ns", faults, unit="nanoseconds") * 1e-9
    output = whole(outputs, lines, "output_toks", faults)
    faults.check()
    if not lines:
        faults.fail("the trace has no requests")
    check_order(arrival_s, lines, 0.0, "arrival_time_ns", faults)
    return Trace(request_table(arrival_s, prompt, output, segments=(offset, ids, tokens)), "token_ids")
