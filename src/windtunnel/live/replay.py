"""The requests of a measurement as a workload, and their simulation on a deployment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.cost.device import device_of
from windtunnel.cost.uncertainty import reach
from windtunnel.errors import Problem, SpecError
from windtunnel.live.measurement import Floats, Ints, Measurement
from windtunnel.search.evaluate import evaluate
from windtunnel.search.serve import Run, serve
from windtunnel.serving.result import Simulation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.table import RequestTable, request_table


@dataclass(frozen=True, slots=True)
class Replayed:
    """A prediction of the very requests that were measured.

    Attributes:
        rows: the measurement's requests (its indices) in the order of the prediction.
        ttft_s, tpot_s, e2e_s: predicted per request, seconds.
        wait_s: predicted time from arrival to the first step that held the request.
        run: the simulation behind them; None when the prediction came as a table.
    """

    rows: Ints
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    wait_s: Floats
    run: Run | None = None

    def latency_s(self, metric: str) -> Floats:
        """`ttft`, `tpot` or `e2e` per request."""
        values: Floats = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}[metric]
        return values


def measured_workload(measured: Measurement) -> tuple[RequestTable, Ints]:
    """The answered requests with the lengths that they had in fact, due when they were due.

    Returns:
        the workload, sorted by due time, and the measurement's index of each of its rows.

    Raises:
        SpecError: nothing was answered.
    """
    rows = np.flatnonzero(measured.ok & (measured.output_received > 0))
    if not len(rows):
        raise SpecError(Problem("no request of this measurement was answered, so there is nothing to compare"))
    rows = rows[np.argsort(measured.due_s[rows], kind="stable")]
    prompt = np.where(measured.prompt_reported > 0, measured.prompt_reported, measured.prompt_tokens)[rows]
    due_s = measured.due_s[rows] - measured.due_s[rows[0]]
    return request_table(
        due_s, np.maximum(prompt, 1), measured.output_received[rows], segments=_segments(measured, rows, prompt)
    ), rows


def _segments(measured: Measurement, rows: Ints, prompt: Ints) -> tuple[Ints, Ints, Ints] | None:
    """What the prompts consisted of, where the measurement knows and the server counted the same lengths."""
    if not len(measured.segment_offset) or np.any(prompt != measured.prompt_tokens[rows]):
        return None
    offset = measured.segment_offset
    counts = offset[rows + 1] - offset[rows]
    places = np.concatenate([np.arange(offset[row], offset[row + 1]) for row in rows.tolist()])
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ends, measured.segment_id[places], measured.segment_tokens[places]


def replay(deployment: DeploymentSpec, measured: Measurement, record_steps: bool = False) -> Replayed:
    """Simulate the measured requests on a deployment.

    Args:
        deployment: what was measured, as far as it is known.
        measured: the requests, with their due times and true lengths.
        record_steps: keep one row per step.
    """
    table, rows = measured_workload(measured)
    run = serve(deployment, table, record_steps=record_steps, sample_interval_s=max(table.duration_s, 1.0) / 200)
    return of_simulation(run.simulation, rows, run)


def replay_ends(predicted: Replayed, measured: Measurement) -> tuple[Replayed, Replayed] | None:
    """The same requests with all costs at the low, and at the high end of their 80 % intervals.

    None for a prediction that came as a table.
    """
    if predicted.run is None:
        return None
    table, rows = measured_workload(measured)
    deployment = predicted.run.deployment
    far = reach(device_of(deployment.accelerator))
    low, high = (evaluate(deployment, table, SloSpec(), at=at).simulation for at in (-far, far))
    return of_simulation(low, rows), of_simulation(high, rows)


def of_simulation(simulation: Simulation, rows: Ints, run: Run | None = None) -> Replayed:
    """The latencies of a simulation of measured requests."""
    return Replayed(
        rows=rows,
        ttft_s=simulation.ttft_s,
        tpot_s=simulation.tpot_s,
        e2e_s=simulation.e2e_s,
        wait_s=simulation.scheduled_s - simulation.arrival_s,
        run=run,
    )


def of_table(path: str, measured: Measurement) -> Replayed:
    """A prediction from the file that `simulate --requests` wrote: row i is the workload's request i.

    Raises:
        SpecError: columns are missing, or the file is of another workload.
    """
    import polars

    readers: dict[str, Any] = {".parquet": polars.read_parquet, ".csv": polars.read_csv, ".jsonl": polars.read_ndjson}
    suffix = path[path.rfind(".") :]
    if suffix not in readers:
        raise SpecError(Problem("unknown format of a prediction", path, allowed=".yaml, .parquet, .csv or .jsonl"))
    try:
        frame = readers[suffix](path)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise SpecError(Problem(f"cannot be read: {error}", path)) from None
    missing = {"prompt_tokens", "ttft_s", "tpot_s", "e2e_s", "scheduled_s", "arrival_s"} - set(frame.columns)
    if missing:
        raise SpecError([Problem("column missing", path, name) for name in sorted(missing)])
    rows = np.flatnonzero(measured.ok & (measured.output_received > 0))
    if len(frame) <= int(measured.row.max(initial=0)):
        problem = Problem("has fewer requests than were measured: another workload", path, got=f"{len(frame):,} rows")
        raise SpecError(problem)
    column = {
        name: frame[name].cast(polars.Float64).to_numpy()[measured.row[rows]]
        for name in frame.columns
        if frame[name].dtype.is_numeric()
    }
    other = column["prompt_tokens"] != measured.prompt_tokens[rows]
    if other.any():
        raise SpecError(
            Problem(
                f"{int(other.sum()):,} of {len(rows):,} requests have prompts of other lengths: another workload", path
            )
        )
    wait_s = column["scheduled_s"] - column["arrival_s"]
    return Replayed(rows, column["ttft_s"], column["tpot_s"], column["e2e_s"], wait_s)


def only(replayed: Replayed, chosen: np.ndarray) -> Replayed:
    """The same prediction, only of some of its requests (a mask over them)."""
    return replace(
        replayed,
        rows=replayed.rows[chosen],
        ttft_s=replayed.ttft_s[chosen],
        tpot_s=replayed.tpot_s[chosen],
        e2e_s=replayed.e2e_s[chosen],
        wait_s=replayed.wait_s[chosen],
    )
