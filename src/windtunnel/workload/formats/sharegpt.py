"""ShareGPT: JSON or JSONL of conversations; also records with OpenAI-style `messages`.

    [{"id": "x", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}]

There is no tokenizer here: lengths are estimated at `CHARACTERS_PER_TOKEN`, and said so in the
notes. There are no times either: every conversation begins at zero unless the workload names
arrivals, and a turn follows the one before it at once.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import nearest
from windtunnel.workload.faults import LONGEST_TOKENS, Faults
from windtunnel.workload.formats.trace import Trace, json_objects, open_text
from windtunnel.workload.prefixes import chain_turns
from windtunnel.workload.sessions import table_of_turns
from windtunnel.workload.table import AT_ARRIVAL

CHARACTERS_PER_TOKEN = 4.0
"""Rule of thumb for English text with byte-pair tokenizers of 32k to 128k entries; other languages
and code have fewer characters per token."""

_ANSWERS = ("gpt", "assistant", "chatgpt", "bing", "bard", "model")


def tokens_of_text(text: str) -> int:
    """Estimated tokens of a text, at least 1."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read conversations; all begin at time zero.

    Args:
        path: the JSON or JSONL file.
        columns: unused; the format fixes its keys.
    """
    faults = Faults(str(path))
    turns: list[int] = []
    texts: list[int] = []
    outputs: list[int] = []
    passed_over = 0
    for line, record in _records(path, faults):
        pairs = _pairs(record, line, faults)
        if pairs:
            turns.append(len(pairs))
            texts.extend(text for text, _ in pairs)
            outputs.extend(output for _, output in pairs)
        else:
            passed_over += 1
    faults.check()
    if not turns:
        faults.fail("no conversation holds a question and an answer")
    count = np.array(turns, dtype=np.int64)
    output = np.array(outputs, dtype=np.int64)
    none = np.zeros(len(count), dtype=np.int64)
    table = table_of_turns(
        count,
        chain_turns(count, np.array(texts, dtype=np.int64), output, none, none),
        output,
        (np.zeros(len(count)), np.full(len(count), AT_ARRIVAL, dtype=np.int64), np.zeros(len(count))),
        np.zeros(len(output)),
        none,
    )
    notes = [
        f"lengths are estimated at {CHARACTERS_PER_TOKEN:g} characters per token",
        "the file has no times: every conversation begins at zero",
    ]
    if passed_over:
        notes.append(f"{passed_over:,} records without an answered question were left out")
    return Trace(table, "sharegpt", tuple(notes))


def _records(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of a JSON list (its number in place of the line) or of a JSONL file."""
    with open_text(path) as file:
        is_list = file.read(4096).lstrip().startswith("[")
    if not is_list:
        yield from json_objects(path, faults)
        return
    with open_text(path) as file:
        try:
            records = json.load(file)
        except json.JSONDecodeError as error:
            faults.fail(f"not valid JSON ({error.msg})", error.lineno)
        except (UnicodeDecodeError, RecursionError, EOFError, gzip.BadGzipFile) as error:
            faults.fail(f"not valid JSON ({error})")
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            yield number, record
        else:
            faults.add(f"record {number} is not an object", got=record)


def _pairs(record: dict[str, Any], line: int, faults: Faults) -> list[tuple[int, int]]:
    """Estimated tokens of each question (with what stands before its answer) and answer."""
    messages = record.get("conversations", record.get("messages"))
    if not isinstance(messages, list):
        close = nearest("conversations", record)
        allowed = "a list of conversations or messages"
        faults.add("missing key", line, "conversations", None if messages is None else messages, allowed, close)
        return []
    pairs: list[tuple[int, int]] = []
    asked = 0
    for message in messages:
        if not isinstance(message, dict):
            faults.add("a message is not an object", line, "conversations", message)
            return []
        text = message.get("value", message.get("content"))
        tokens = tokens_of_text(text) if isinstance(text, str) and text else 0
        if tokens > LONGEST_TOKENS:
            faults.add("implausibly long text", line, "conversations", tokens, f"at most {LONGEST_TOKENS:,} tokens")
            return []
        if message.get("from", message.get("role")) in _ANSWERS and asked and tokens:
            pairs.append((asked, tokens))
            asked = 0
        else:
            asked += tokens
    return pairs
