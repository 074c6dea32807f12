"""A folder of a real engine run: what was run, on what, and when each request got its tokens.

    DIR/vllm/requests.jsonl   one request a line: tokens, arrival, queued, scheduled, first and last token
    DIR/vllm/meta.json        engine version and arguments, the workload's file
    DIR/config.json           optional: the machine, as the run's authors describe it
    workloads/NAME.jsonl      optional, in a folder above: the prompts' token ids

Arrivals are on the wall clock, everything else on the engine's own: the two are set together by the
request that was queued soonest after it arrived, so that latencies count from arrival and leave out
only what every request spends before the engine sees it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.errors import Problem, TraceError
from windtunnel.workload.read import read_trace
from windtunnel.workload.table import RequestTable, request_table

Floats = npt.NDArray[np.float64]

TOKENS = ("input_toks", "output_toks")
TIMES = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
MOST_PROBLEMS = 20
NANO = 1e-9
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Machine:
    """What `config.json` says; empty or 0 where it says nothing.

    Attributes:
        accelerator: its name there.
        link_bytes_per_s: rate between accelerators.
    """

    accelerator: str = ""
    link_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineRun:
    """A run as it was recorded.

    Attributes:
        folder: where it stands.
        workload: the requests as they arrived, with their prompts' content where it is known.
        first_token_s, finish_s: seconds on the workload's clock, by row of the workload.
        model: the model's name.
        version: the engine's.
        arguments: the engine's arguments by name, nulls left out.
        kv_blocks: blocks of the cache that the engine reported, 0 when not.
        machine: what the folder says about it.
        notes: what was assumed in reading.
    """

    folder: Path
    workload: RequestTable
    first_token_s: Floats
    finish_s: Floats
    model: str
    version: str
    arguments: dict[str, Any]
    kv_blocks: int
    machine: Machine
    notes: tuple[str, ...]


def read_run(folder: Path) -> EngineRun:
    """Read a run's folder.

    Raises:
        TraceError: a file is missing or does not say what it must; every problem of that file.
    """
    inner = folder / "vllm" if (folder / "vllm").is_dir() else folder
    meta = _mapping(inner / "meta.json")
    rows = _requests(inner / "requests.jsonl")
    arguments = {key: value for key, value in dict(meta.get("engine_kwargs") or {}).items() if value is not None}
    model = str(meta.get("model") or arguments.get("model") or "")
    if not model:
        raise TraceError(Problem("is missing", str(inner / "meta.json"), "model"))
    tokens = {name: np.array([row[name] for row in rows], dtype=np.int64) for name in TOKENS}
    times = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in TIMES}
    arrival = times["arrival_time"]
    offset = float(np.min(times["queued_ts"] - arrival))
    start = float(arrival.min()) + offset
    workload, note = _workload(folder, meta, arrival + offset - start, tokens)
    order = np.argsort(arrival, kind="stable")
    return EngineRun(
        folder=folder,
        workload=workload,
        first_token_s=times["first_token_ts"][order] - start,
        finish_s=times["last_token_ts"][order] - start,
        model=model,
        version=str(meta.get("vllm_version") or ""),
        arguments=arguments,
        kv_blocks=_reported_blocks(meta, int(arguments.get("block_size", 16))),
        machine=_machine(folder / "config.json"),
        notes=(note,) if note else (),
    )


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise TraceError(Problem(f"cannot read the file ({error.strerror})", str(path))) from None
    except ValueError as error:
        raise TraceError(Problem(f"not JSON ({error})", str(path))) from None
    if not isinstance(data, dict):
        raise TraceError(Problem("not a mapping", str(path)))
    return data


def _requests(path: Path) -> list[dict[str, Any]]:
    """The requests, each with every number that is needed, in a true order."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(Problem(f"cannot read the file ({error})", str(path))) from None
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        place = f"{path}:{line}"
        try:
            row = json.loads(text)
        except ValueError as error:
            problems.append(Problem(f"not JSON ({error})", place))
            continue
        found = _row_problems(row, place)
        problems += found
        if not found:
            rows.append(row)
    if problems:
        raise TraceError(problems[:MOST_PROBLEMS])
    if not rows:
        raise TraceError(Problem("the run has no requests", str(path)))
    return rows


def _row_problems(row: Any, place: str) -> list[Problem]:
    if not isinstance(row, dict):
        return [Problem("not a mapping", place)]
    problems = []
    for name in (*TOKENS, *TIMES):
        value = row.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            problems.append(Problem("not a number", place, name, repr(value)))
        elif name in TOKENS and (value < 1 or value != int(value)):
            problems.append(Problem("must be a whole number of at least 1", place, name, repr(value)))
    if problems:
        return problems
    if not row["queued_ts"] <= row["first_token_ts"] <= row["last_token_ts"]:
        problems.append(Problem("times are not in order (queued, first token, last token)", place))
    return problems


def _workload(
    folder: Path, meta: dict[str, Any], arrival_s: Floats, tokens: dict[str, npt.NDArray[np.int64]]
) -> tuple[RequestTable, str]:
    """The requests in order of arrival, with their prompts' content when the workload's file has it."""
    order = np.argsort(arrival_s, kind="stable")
    plain = request_table(arrival_s[order], tokens["input_toks"][order], tokens["output_toks"][order])
    name = str(meta.get("dataset_path") or "")
    path = next(
        (above / name for above in (folder, *folder.resolve().parents) if name and (above / name).is_file()), None
    )
    if path is None:
        return plain, "the workload's file is not beside the run: prompts are taken to share nothing"
    given = read_trace(path)
    same = len(given) >= len(plain) and all(
        np.array_equal(getattr(given, column)[: len(plain)], tokens[key])
        for column, key in (("prompt_tokens", "input_toks"), ("output_tokens", "output_toks"))
    )
    if not same or not given.shares_prefixes:
        return plain, f"{path.name} does not list the same requests: prompts are taken to share nothing"
    parts = [slice(int(given.segment_offset[row]), int(given.segment_offset[row + 1])) for row in order]
    offset = np.concatenate([[0], np.cumsum([part.stop - part.start for part in parts])])
    ids = np.concatenate([given.segment_id[part] for part in parts])
    lengths = np.concatenate([given.segment_tokens[part] for part in parts])
    return (
        request_table(plain.arrival_s, plain.prompt_tokens, plain.output_tokens, segments=(offset, ids, lengths)),
        "",
    )


def _reported_blocks(meta: dict[str, Any], block_tokens: int) -> int:
    """KV blocks that the engine reported, under any of the names that vLLM uses for them."""
    found: dict[str, int] = {}

    def look(data: dict[str, Any]) -> None:
        for key, value in data.items():
            if isinstance(value, dict):
                look(value)
            elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
                found.setdefault(key.lower(), value)

    look(meta)
    for key, value in found.items():
        if "blocks" in key and "cpu" not in key and "swap" not in key:
            return value
    for key, value in found.items():
        if "kv" in key and "token" in key:
            return value // block_tokens
    return 0


def _machine(path: Path) -> Machine:
    """The first instance of the description, and the link; nothing when there is no such file."""
    if not path.is_file():
        return Machine()
    data = _mapping(path)
    instances = [one for node in data.get("nodes") or [] for one in node.get("instances") or []]
    rate = data.get("link_bw")
    return Machine(
        accelerator=str(instances[0].get("hardware") or "") if instances else "",
        link_bytes_per_s=float(rate) * GIGA if isinstance(rate, int | float) and rate > 0 else 0.0,
    )
