"""Scheduler cases: a workload with a scheduler configuration, and what is scheduled step by step.

The format of a case and of the lines is that of the reference driver, which replays the same
case through the real engine's scheduler. The prompts are made of the same tokens, so that
content is shared exactly where it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.cost.surface import StepSurface, linear_surface
from windtunnel.serving.case_check import check_case, read_case
from windtunnel.serving.case_spec import drafting_of
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.specs.lora import LoraSpec
from windtunnel.workload.table import RequestTable, request_table

_OUTPUT_TOKEN = 11
"""Every generated token of a case."""


@dataclass(frozen=True, slots=True)
class Case:
    """A scheduler case.

    Attributes:
        settings: the scheduler's.
        surface: the linear step cost.
        workload: the requests in order of arrival, then of their place in the file.
        place: row of the workload -> place in the file.
    """

    settings: SchedulerSettings
    surface: StepSurface
    workload: RequestTable
    place: tuple[int, ...]


def load_case(path: Path) -> Case:
    """Read and check a case file.

    Raises:
        CaseError: the file cannot be read, or the engine would refuse it; names every mistake.
    """
    data = read_case(path)
    check_case(data, str(path))
    requests: list[dict[str, Any]] = data["requests"]
    order = sorted(range(len(requests)), key=lambda i: (requests[i]["arrival"], i))
    settings = SchedulerSettings(
        max_num_seqs=data["max_num_seqs"],
        max_num_batched_tokens=data["max_num_batched_tokens"],
        max_model_len=data["max_model_len"],
        num_blocks=data["num_blocks"],
        block_size=data["block_size"],
        enable_chunked_prefill=data.get("enable_chunked_prefill", True),
        enable_prefix_caching=data.get("enable_prefix_caching", False),
        policy=data.get("policy", "fcfs"),
        long_prefill_token_threshold=data.get("long_prefill_token_threshold", 0),
        watermark=data.get("watermark", 0.0),
        over_length="truncate",
        async_scheduling=data.get("async_scheduling", False),
        drafting=drafting_of(data.get("spec"), [requests[i] for i in order]),
        lora=_adapters(data),
    )
    cost = data["cost"]
    return Case(
        settings=settings,
        surface=linear_surface(cost["base"], cost["per_token"], cost["per_kv_token"]),
        workload=_workload([requests[i] for i in order], order, settings.enable_prefix_caching),
        place=tuple(order),
    )


def _adapters(data: dict[str, Any]) -> LoraSpec | None:
    """`max_loras`, with the requests' adapters as their tenants."""
    if "max_loras" not in data:
        return None
    many = max(len(_named(data["requests"])), data["max_loras"])
    return LoraSpec(adapters=many, max_loras=data["max_loras"], popularity="tenant")


def _named(requests: list[dict[str, Any]]) -> list[int]:
    """The adapters that requests name; 0 or nothing names none."""
    return sorted({r["adapter"] for r in requests if r.get("adapter", 0)})


def _workload(requests: list[dict[str, Any]], order: list[int], with_content: bool) -> RequestTable:
    segments = None
    number = {adapter: i for i, adapter in enumerate(_named(requests))}
    if with_content:
        tokens = np.concatenate(
            [np.array(_prompt(i, r)) for i, r in zip(order, requests, strict=True)] or [np.zeros(0)]
        )
        offset = np.concatenate([[0], np.cumsum([r["prompt"] for r in requests])])
        segments = (offset, tokens, np.ones(len(tokens), dtype=np.int64))
    return request_table(
        [r["arrival"] for r in requests],
        [r["prompt"] for r in requests],
        [r["output"] for r in requests],
        priority=[r.get("priority", 0) for r in requests],
        tenant=[number.get(r.get("adapter", 0), -1) for r in requests],
        segments=segments,
        output_id=np.full(len(requests), _OUTPUT_TOKEN) if with_content else None,
    )


def _prompt(i: int, request: dict[str, Any]) -> list[int]:
    """The tokens of a prompt: shared ones by prefix id, then the request's own."""
    prefix = request.get("prefix", 0)
    shared = min(request.get("prefix_len", 0), request["prompt"]) if prefix else 0
    head = [(prefix * 7919 + k) % 900 + 10 for k in range(shared)]
    tail = [((i + 1) * 104729 + 31 * k) % 900 + 10 for k in range(request["prompt"] - shared)]
    if not shared:
        tail[0] = 10 + i % 900
        if len(tail) > 1:
            tail[1] = 10 + i // 900
    return head + tail


def run_case(case: Case) -> Simulation:
    """Simulate a case with its steps recorded (rows in the case's order of arrival)."""
    names = [str(place) for place in case.place]
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return run(case.workload, case.surface, case.settings, record_steps=True, tie_order=rank, output_unit=True)


def case_lines(case: Case, result: Simulation) -> Iterator[str]:
    """What was scheduled, one JSON object per line: the steps, then the requests."""
    for step in case_records(case, result):
        yield json.dumps(step)


def case_records(case: Case, result: Simulation) -> Iterator[dict[str, Any]]:
    """The steps as the lines' objects, then the requests."""
    steps = result.step_table
    assert steps is not None
    place = case.place
    row_of_finish = _finished_by_end(result, place)
    for s in range(len(steps)):
        served = slice(steps.entry_offset[s], steps.entry_offset[s + 1])
        lost = slice(steps.preempted_offset[s], steps.preempted_offset[s + 1])
        rows, tokens = steps.entry_request[served].tolist(), steps.entry_tokens[served].tolist()
        end = float(steps.end_s[s])
        yield {
            "step": s,
            "start": float(steps.start_s[s]),
            "end": end,
            "scheduled": {str(place[i]): n for i, n in zip(rows, tokens, strict=True)},
            "preempted": sorted(place[i] for i in steps.preempted_request[lost].tolist()),
            "finished": [place[i] for i in rows if i in row_of_finish.get(s, ())],
            "running": int(steps.running[s]),
            "waiting": int(steps.waiting[s]),
            "free_blocks": int(steps.free_blocks[s]),
        }
    row = {p: i for i, p in enumerate(place)}
    yield {
        "requests": [
            {
                "first_token": float(result.first_token_s[row[p]]),
                "finish": float(result.finish_s[row[p]]),
                "preemptions": int(result.preemptions[row[p]]),
                "cached_tokens": int(result.cached_tokens[row[p]]),
            }
            for p in range(len(place))
        ]
    }


def _finished_by_end(result: Simulation, place: tuple[int, ...]) -> dict[int, set[int]]:
    """Step -> rows that finished with it: of each request, the last step that served it."""
    steps = result.step_table
    assert steps is not None
    step_of_entry = np.repeat(np.arange(len(steps)), np.diff(steps.entry_offset))
    # A step composed ahead may hold a request that the step under way finishes.
    timely = steps.end_s[step_of_entry] <= result.finish_s[steps.entry_request]
    last = np.full(len(place), -1, dtype=np.int64)
    np.maximum.at(last, steps.entry_request[timely], step_of_entry[timely])
    finished: dict[int, set[int]] = {}
    for i, s in enumerate(last.tolist()):
        finished.setdefault(s, set()).add(i)
    return finished
