"""Service level objectives: latency targets at a percentile, or a share of requests that meet them all."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.specs.fields import Seconds, Spec
from windtunnel.units import format_seconds, parse_seconds

Metric = Literal["ttft", "tpot", "e2e"]
METRICS: tuple[str, ...] = ("ttft", "tpot", "e2e")
STATISTICS: tuple[str, ...] = ("mean", "p50", "p75", "p90", "p95", "p99", "p99.9")


class Target(Spec):
    """One latency target, such as TTFT at the 99th percentile below 2 seconds."""

    metric: Metric
    statistic: str = "p99"
    limit_s: Seconds = Field(gt=0)

    @property
    def key(self) -> str:
        """`ttft_p99`, the name used in results."""
        return f"{self.metric}_{self.statistic}"

    def __str__(self) -> str:
        return f"{self.metric.upper()} {self.statistic} < {format_seconds(self.limit_s)}"


class SloSpec(Spec):
    """Targets that must all hold; `attainment` is the share of requests that must meet per-request limits.

    A statistic target holds when that percentile over all requests is below its limit. When
    attainment is above 0, limits are read per request instead, and at least that share of
    requests must meet all of them (goodput's definition).
    """

    targets: tuple[Target, ...] = ()
    attainment: float = Field(0.0, ge=0, le=1)

    def __str__(self) -> str:
        text = ", ".join(str(target) for target in self.targets) or "no targets"
        return f"{text} for {self.attainment:.0%} of requests" if self.attainment else text


_TARGET = re.compile(r"^\s*([a-z0-9]+)(?:_(mean|p[\d.]+))?\s*<=?\s*(.+?)\s*$", re.IGNORECASE)
_ATTAINMENT = re.compile(r"^\s*attainment\s*>=?\s*([\d.]+)\s*(%?)\s*$", re.IGNORECASE)


def parse_slo(text: str, file: str = "--slo") -> SloSpec:
    """An SLO from text such as `ttft_p99<2s,tpot_p99<50ms` or `ttft<2s,tpot<50ms,attainment>=90%`.

    Raises:
        SpecError: every mistake in the text, together.
    """
    targets: list[Target] = []
    attainment = 0.0
    problems: list[Problem] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        share = _ATTAINMENT.match(part)
        if share is not None:
            attainment = float(share.group(1)) / (100.0 if share.group(2) else 1.0)
            if not 0 < attainment <= 1:
                problems.append(Problem("attainment is out of range", file, "attainment", part, "0% to 100%"))
            continue
        target = _parse_target(part, file, problems)
        if target is not None:
            targets.append(target)
    if not targets and not problems:
        problems.append(Problem("no target given", file, "", repr(text), "such as ttft_p99<2s,tpot_p99<50ms"))
    if problems:
        raise SpecError(problems)
    return SloSpec(targets=tuple(targets), attainment=attainment)


def _parse_target(part: str, file: str, problems: list[Problem]) -> Target | None:
    match = _TARGET.match(part)
    if match is None:
        problems.append(Problem("a target reads METRIC_STATISTIC<LIMIT", file, "", repr(part), "such as ttft_p99<2s"))
        return None
    metric, statistic = match.group(1).lower(), (match.group(2) or "p99").lower()
    found = len(problems)
    if metric not in METRICS:
        known = ", ".join(METRICS)
        problems.append(Problem("unknown metric", file, part, repr(metric), known, nearest(metric, METRICS)))
    if statistic not in STATISTICS:
        known = ", ".join(STATISTICS)
        problems.append(
            Problem("unknown statistic", file, part, repr(statistic), known, nearest(statistic, STATISTICS))
        )
    limit_s = 0.0
    try:
        limit_s = parse_seconds(match.group(3))
        if limit_s <= 0:
            problems.append(Problem("a limit must be positive", file, part, repr(match.group(3)), "above 0 s"))
    except ValueError as error:
        problems.append(Problem(str(error), file, part, allowed="such as 2s or 50ms"))
    if len(problems) > found:
        return None
    return Target(metric=metric, statistic=statistic, limit_s=limit_s)
