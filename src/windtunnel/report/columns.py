"""Per-request and per-step results as tables in a file: CSV, Parquet or JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.errors import Problem
from windtunnel.files import cannot_write, replace_whole
from windtunnel.serving.result import Simulation

if TYPE_CHECKING:
    import polars

SUFFIXES = (".parquet", ".csv", ".jsonl")
"""Formats, by the end of the file's name."""


def table_problems(path: str | None, flag: str) -> list[Problem]:
    """What is wrong with a table's path, before any work is done."""
    if path is None:
        return []
    if Path(path).suffix not in SUFFIXES:
        return [
            Problem(
                "unknown format of a table", flag, got=repr(path), allowed="a name ending in " + ", ".join(SUFFIXES)
            )
        ]
    problem = cannot_write(path, flag)
    return [problem] if problem is not None else []


def requests_frame(simulation: Simulation) -> polars.DataFrame:
    """One row per request, times in seconds; null where something never happened."""
    import polars

    load = simulation.workload
    columns = {
        "arrival_s": simulation.arrival_s,
        "prompt_tokens": load.prompt_tokens,
        "output_tokens": simulation.output_tokens,
        "scheduled_s": simulation.scheduled_s,
        "first_token_s": simulation.first_token_s,
        "finish_s": simulation.finish_s,
        "ttft_s": simulation.ttft_s,
        "tpot_s": simulation.tpot_s,
        "e2e_s": simulation.e2e_s,
        "preemptions": simulation.preemptions,
        "cached_tokens": simulation.cached_tokens,
        "replica": simulation.replica,
        "rejected": simulation.rejected,
    }
    return polars.DataFrame(columns).fill_nan(None)


def steps_frame(simulation: Simulation) -> polars.DataFrame:
    """One row per step. The simulation must have recorded its steps."""
    import polars

    steps = simulation.step_table
    assert steps is not None
    names = ("replica", "start_s", "end_s", "tokens", "prefill_tokens", "requests", "running", "waiting", "free_blocks")
    return polars.DataFrame({name: getattr(steps, name) for name in names})


def write_table(frame: polars.DataFrame, path: str) -> None:
    """Write a table in the format that the path's name ends in, whole or not at all."""

    def write(temporary: Path) -> None:
        if temporary.suffix == ".parquet":
            frame.write_parquet(temporary)
        elif temporary.suffix == ".csv":
            frame.write_csv(temporary)
        else:
            frame.write_ndjson(temporary)

    replace_whole(path, write)
