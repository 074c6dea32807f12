"""Ranking: the order of candidates, and one sentence on why each stands where it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from windtunnel.search.result import Candidate
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.slo import SloSpec
from windtunnel.units import format_seconds

_ORDER = {"meets": 0, "misses": 1, "skipped": 2, "dominated": 3, "infeasible": 4}


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """What meets the targets first, by dollars per hour; then the rest.

    At equal cost more capacity comes first, then fewer accelerators, then less quantisation, then less energy.
    """

    def key(c: Candidate) -> tuple[float, ...]:
        room = -c.capacity_per_s if math.isfinite(c.capacity_per_s) else 0.0
        joules = c.joules_per_output_token if math.isfinite(c.joules_per_output_token) else math.inf
        plan = c.deployment.plan
        bits = DTYPE_BYTES[plan.weight_dtype] + DTYPE_BYTES[plan.kv_dtype]
        return (_ORDER[c.outcome], round(c.usd_per_h, 6), room, c.deployment.accelerators, -bits, joules)

    return sorted(candidates, key=key)


def closest_of(candidates: Sequence[Candidate], slo: SloSpec) -> Candidate | None:
    """Of those that miss, the one that carries most of the traffic within the targets; then the least missed."""
    missing = [c for c in candidates if c.outcome == "misses" and c.metrics is not None]

    def far(c: Candidate) -> tuple[float, float, float]:
        carried = c.capacity_per_s if math.isfinite(c.capacity_per_s) else -1.0
        return -carried, c.tightness(slo), c.usd_per_h

    return min(missing, key=far, default=None)


def with_reasons(candidates: Sequence[Candidate], slo: SloSpec, rate_per_s: float) -> tuple[Candidate, ...]:
    """The candidates with a reason where the search has not given one."""
    pick = next((c for c in candidates if c.outcome == "meets"), None)
    return tuple(c if c.reason else replace(c, reason=_reason(c, pick, slo, rate_per_s)) for c in candidates)


def _reason(candidate: Candidate, pick: Candidate | None, slo: SloSpec, rate_per_s: float) -> str:
    if candidate.outcome == "misses":
        return missed(candidate, slo)
    if candidate is pick or pick is None:
        return "cheapest deployment that holds every target"
    if candidate.usd_per_h > pick.usd_per_h * 1.0005:
        more = candidate.usd_per_h / pick.usd_per_h - 1.0
        return f"holds every target, {more:.0%} dearer than the pick"
    if candidate.capacity_per_s < pick.capacity_per_s:
        return (
            f"costs the same as the pick, takes {candidate.capacity_per_s:.2f} instead of {pick.capacity_per_s:.2f} "
            "requests/s"
        )
    return "costs the same as the pick and carries as much"


def missed(candidate: Candidate, slo: SloSpec) -> str:
    """Which targets a candidate misses, by how much, and what binds."""
    metrics = candidate.metrics
    if metrics is None:
        return "was not simulated"
    unserved = metrics.requests - metrics.finished - metrics.rejected
    if unserved > 0:
        return f"cannot keep up: the queue grew until {unserved:,} requests were left; {candidate.binding}"
    if slo.attainment:
        return (
            f"{metrics.attainment:.1%} of requests meet the limits, {slo.attainment:.0%} are asked; {candidate.binding}"
        )
    if metrics.meets(slo) or not metrics.violations(slo):
        return f"queues grow through the run, which the targets alone do not forbid; {candidate.binding}"
    parts = [
        f"{t.metric.upper()} {t.statistic} {format_seconds(metrics.value_s(t))} (target {format_seconds(t.limit_s)})"
        for t in metrics.violations(slo)
    ]
    return f"misses {' and '.join(parts)}; {candidate.binding}"
