"""Read a trace of any known format, recognised by what is in the file."""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.errors import Problem, TraceError, nearest
from windtunnel.workload.formats.trace import Trace, csv_header
from windtunnel.workload.table import RequestTable

FORMATS: dict[str, str] = {
    "azure": "Azure LLM inference trace, CSV: TIMESTAMP, ContextTokens, GeneratedTokens",
    "burstgpt": "BurstGPT, CSV: Timestamp, Model, Request tokens, Response tokens and more",
    "mooncake": "Mooncake and AIPerf, JSONL: timestamp, input_length, output_length, hash_ids, session_id, delay",
    "sharegpt": "ShareGPT, JSON or JSONL: conversations (lengths are estimated)",
    "prompts": "vLLM custom data set, JSONL: prompt, output_tokens (prompt lengths are estimated)",
    "token_ids": "token ids, JSONL: input_tok_ids, output_toks, arrival_time_ns",
    "named_csv": "CSV with named columns",
    "named_jsonl": "JSONL with named keys",
    "named_parquet": "Parquet with named columns",
}
"""Formats that can be read, each a module of `formats`, and what they look like."""

_SNIFFED_BYTES = 1 << 16


def read_trace(
    path: str | Path, *, format: str | None = None, columns: Mapping[str, str] | None = None
) -> RequestTable:
    """The requests of a trace file.

    Args:
        path: the file; may be gzipped, apart from Parquet.
        format: a key of `FORMATS`; recognised by content when not given.
        columns: for the `named_` formats: which column holds what, such as
            `{"prompt_tokens": "n_in", "arrival_s": "t"}`; the usual names are known.

    Raises:
        TraceError: the file cannot be read as a trace; lists up to 20 problems with their lines.
    """
    return open_trace(path, format=format, columns=columns).table


def open_trace(path: str | Path, *, format: str | None = None, columns: Mapping[str, str] | None = None) -> Trace:
    """As `read_trace`, with the format found and notes on what was assumed."""
    path = Path(path)
    if format is not None and format not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise TraceError(Problem("unknown trace format", "format", "", repr(format), allowed, nearest(format, FORMATS)))
    head = _head(path)
    name = format or recognise(path, head)
    if name == "named_parquet" and not head.startswith(b"PAR1"):
        raise TraceError(Problem("not a Parquet file (it does not begin with PAR1)", str(path)))
    if columns and name not in ("named_csv", "named_jsonl", "named_parquet"):
        if format is None:
            name = "named_csv" if name in ("azure", "burstgpt") else "named_jsonl"
        else:
            raise TraceError(Problem(f"the format {name} fixes its columns", str(path), "columns"))
    module: Any = importlib.import_module(f"windtunnel.workload.formats.{name}")
    trace: Trace = module.read(path, columns or {})
    return trace


def _head(path: Path) -> bytes:
    """The first bytes of a file, unpacked."""
    if path.is_dir():
        raise TraceError(Problem("this is a directory, not a trace file", str(path)))
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED_BYTES)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path, "rb") as unpacked:
                head = unpacked.read(_SNIFFED_BYTES)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TraceError(Problem(f"cannot read the file ({reason})", str(path))) from None
    if not head.strip():
        raise TraceError(Problem("the file is empty", str(path)))
    return head


def recognise(path: Path, head: bytes) -> str:
    """The format of a file from its first bytes.

    Raises:
        TraceError: it is neither text nor Parquet.
    """
    if head.startswith(b"PAR1") or path.suffix == ".parquet":
        return "named_parquet"
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # a character may be cut at the end of what was read
        if len(head) < _SNIFFED_BYTES or error.start < len(head) - 4:
            raise TraceError(Problem("the file is neither UTF-8 text nor Parquet", str(path))) from None
        text = head[: error.start].decode("utf-8-sig")
    if "\0" in text or not text.strip():
        raise TraceError(Problem("the file is neither UTF-8 text nor Parquet", str(path)))
    text = text.lstrip()
    if text[0] == "[":
        return "sharegpt"
    return _recognise_json(text) if text[0] == "{" else _recognise_csv(text)


def _recognise_json(text: str) -> str:
    first = text.splitlines()[0]
    try:
        keys = set(json.loads(first))
    except (json.JSONDecodeError, RecursionError):
        keys = {name for name in ("conversations", "hash_ids", "prompt", "input_length") if f'"{name}"' in first}
    if keys & {"conversations", "messages"}:
        return "sharegpt"
    if "input_tok_ids" in keys:
        return "token_ids"
    if "hash_ids" in keys or ("input_length" in keys and keys & {"timestamp", "delay", "session_id", "output_length"}):
        return "mooncake"
    return "prompts" if "prompt" in keys and "prompt_tokens" not in keys else "named_jsonl"


def _recognise_csv(text: str) -> str:
    names = set(csv_header(text.splitlines()[0])[0])
    if len(names & {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}) >= 2:
        return "azure"
    if names & {"Request tokens", "Response tokens"}:
        return "burstgpt"
    return "named_csv"
