"""The workload that the flags ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from windtunnel.cli.given import Given

if TYPE_CHECKING:
    from windtunnel.specs.workload import WorkloadSpec
    from windtunnel.workload.load import LoadedWorkload

TRAFFIC = ("trace", "workload", "rate", "rate_scale", "limit", "seed")
"""Fields that say what the traffic is."""
DEFAULT = "azure-conversation"


def read_traffic(given: Given, seed: int) -> LoadedWorkload | None:
    """The workload, limited and scaled as asked; None when something was wrong (kept in `given`).

    `limit` keeps the first requests before the rate is scaled, so that both mean what they say.
    """
    from windtunnel.workload.load import load_workload
    from windtunnel.workload.transform import first

    rate, scale = given.positive("rate"), given.positive("rate_scale")
    limit = given.whole("limit", 0) if given.has("limit") else 0
    if rate is not None and scale is not None:
        given.wrong("rate", "cannot be combined with --rate-scale", "one of the two")
    loaded = None
    with given:
        loaded = load_workload(_spec(given, seed))
    if loaded is None:
        return None
    if limit and limit < len(loaded.table):
        note = f"the first {limit:,} of {len(loaded.table):,} requests are used"
        loaded = replace(loaded, table=first(loaded.table, limit), notes=(*loaded.notes, note))
    if rate is not None:
        if loaded.table.rate_per_s <= 0:
            given.wrong("rate", "cannot scale arrivals that all come at once")
            return None
        scale = rate / loaded.table.rate_per_s
    return replace(loaded, table=loaded.table.with_rate(scale)) if scale is not None else loaded


def _spec(given: Given, seed: int) -> WorkloadSpec:
    """The workload's spec from a trace, a name, a YAML file, or a mapping in the settings."""
    from windtunnel.errors import Problem, SpecError
    from windtunnel.specs.load import build, load
    from windtunnel.specs.workload import WorkloadSpec

    if given.has("trace") and given.has("workload"):
        raise SpecError(Problem("give a trace or a workload, not both", given.where("trace")))
    if given.has("trace"):
        return WorkloadSpec(trace=given.text("trace"))
    raw = given.raw("workload", DEFAULT)
    if isinstance(raw, dict):
        spec = build(WorkloadSpec, raw, given.where("workload"))
    else:
        spec = load("workloads", str(raw), given.where("workload"))
    return spec.model_copy(update={"seed": seed}) if given.has("seed") else spec
