"""A workload by name, file or spec, ready to be served."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from windtunnel.errors import Problem, TraceError
from windtunnel.specs.load import load, names
from windtunnel.specs.workload import WorkloadSpec
from windtunnel.workload.arrivals import draw_arrivals
from windtunnel.workload.read import open_trace
from windtunnel.workload.synthesize import synthesize
from windtunnel.workload.table import RequestTable
from windtunnel.workload.transform import clip, window


@dataclass(frozen=True, slots=True)
class LoadedWorkload:
    """A workload ready to be served.

    Attributes:
        table: the requests.
        name: what to call it: the catalogue name, the spec's name or the file's name.
        notes: what was assumed, estimated, left out or clipped, in sentences for the user.
        trace_format: the format of the trace file; empty for a synthetic workload.
    """

    table: RequestTable
    name: str
    notes: tuple[str, ...] = ()
    trace_format: str = ""


def load_workload(workload: WorkloadSpec | str | Path, where: str = "") -> LoadedWorkload:
    """Resolve a workload and apply its window, rate scale and clipping.

    Args:
        workload: a spec, a catalogue name such as `azure-conversation`, a spec in YAML, or a
            trace file.
        where: the flag it came from, for error messages.

    Raises:
        SpecError: an unknown name or a wrong spec.
        TraceError: a trace that cannot be read, or nothing left in the window.
    """
    if isinstance(workload, WorkloadSpec):
        return _of_spec(workload, workload.name)
    path = Path(workload)
    if path.suffix in (".yaml", ".yml"):
        return _of_spec(load("workloads", str(workload), where), path.stem)
    is_name = str(workload).casefold() in {name.casefold() for name in names("workloads")}
    if not is_name and (path.exists() or path.suffix or "/" in str(workload)):
        return _of_spec(WorkloadSpec(trace=str(workload)), path.name)
    return _of_spec(load("workloads", str(workload), where), str(workload))


def _of_spec(spec: WorkloadSpec, fallback: str) -> LoadedWorkload:
    name = spec.name or fallback or (Path(spec.trace).name if spec.trace else "synthetic")
    notes: list[str] = []
    trace_format = ""
    if spec.trace:
        trace = open_trace(spec.trace)
        table, trace_format = trace.table, trace.format
        notes.extend(trace.notes)
        if "arrivals" in spec.model_fields_set:
            table = _retimed(table, spec)
            notes.append(f"arrivals are drawn ({spec.arrivals.kind}); the trace gives the lengths")
    else:
        table = synthesize(spec)
    if spec.start_s > 0 or spec.end_s is not None:
        before = len(table)
        table = window(table, spec.start_s, spec.end_s)
        notes.append(f"{len(table):,} of {before:,} requests lie in the window")
        if not len(table):
            end = "the end" if spec.end_s is None else f"{spec.end_s:g} s"
            raise TraceError(
                Problem(f"no request lies between {spec.start_s:g} s and {end}", spec.trace or name, "start_s")
            )
    if spec.rate_scale != 1.0:
        table = table.with_rate(spec.rate_scale)
    if spec.max_context_tokens:
        table, report = clip(table, spec.max_context_tokens)
        notes.extend(report.notes())
    return LoadedWorkload(table, name, tuple(notes), trace_format)


def _retimed(table: RequestTable, spec: WorkloadSpec) -> RequestTable:
    """The requests of a trace, in their order, arriving as the spec says; links are dropped."""
    arrival_s, after, delay_s = draw_arrivals(spec.arrivals, len(table), np.random.default_rng(spec.seed))
    return replace(table, arrival_s=arrival_s, after=after, delay_s=delay_s)
