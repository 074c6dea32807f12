"""The figures of a run that a person asks for: name, value, target and verdict."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.metrics.summary import Metrics
from windtunnel.report.text import number, percent
from windtunnel.specs.slo import SloSpec, Target
from windtunnel.units import format_seconds

_LATENCY = {"ttft": ("p50", "p99"), "tpot": ("p50", "p99"), "e2e": ("p50", "p99")}
"""Statistics that are always shown; those of the targets are added."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure: its name, its value as text, the target it is held to, if any, and its interval.

    Figures that are counted rather than predicted have no interval.
    """

    name: str
    value: str
    target: str = ""
    verdict: str = ""
    interval: str = "not yet known"


def latency_name(metric: str, statistic: str) -> str:
    """`TTFT p99`."""
    return f"{metric.upper()} {statistic}"


def late(value_s: float) -> str:
    """A latency as text; `never` where the tail did not finish."""
    return "never" if value_s == float("inf") else format_seconds(value_s)


def target_facts(metrics: Metrics, slo: SloSpec) -> list[tuple[str, str]]:
    """(name, value) of each target's statistic, or the share of requests within limits when that is the target."""
    if slo.attainment:
        return [("within limits", percent(metrics.attainment))]
    return [(latency_name(t.metric, t.statistic), late(metrics.value_s(t))) for t in slo.targets]


def facts(metrics: Metrics, slo: SloSpec) -> list[Fact]:
    """What a run did: latencies with their targets, then rates and use."""
    rows = [*_latencies(metrics, slo)]
    if slo.attainment:
        share = metrics.attainment
        verdict = "holds" if share >= slo.attainment else "missed"
        rows.append(Fact("requests within limits", percent(share), f">= {percent(slo.attainment)}", verdict))
    everyone = metrics.finished == metrics.requests
    count = f"all {metrics.requests:,}" if everyone else f"{metrics.finished:,} of {metrics.requests:,}"
    rows.append(Fact("requests finished", count, interval=""))
    if metrics.rejected:
        rows.append(Fact("requests too long to serve", f"{metrics.rejected:,}", interval=""))
    rows += [
        Fact("output tokens per second", number(metrics.output_tokens_per_s)),
        Fact("replicas busy", percent(metrics.busy_share)),
        Fact("tokens per step", number(metrics.mean_batch_tokens)),
        Fact("KV cache in use, peak", percent(metrics.peak_kv_share)),
    ]
    if metrics.preemptions:
        rows.append(Fact("preemptions", f"{metrics.preemptions:,}"))
    if metrics.prefix_hit_share > 0:
        rows.append(Fact("prompt tokens from the prefix cache", percent(metrics.prefix_hit_share)))
    if not metrics.kept_up:
        rows.append(Fact("queues", "growing"))
    return rows


def _latencies(metrics: Metrics, slo: SloSpec) -> list[Fact]:
    """The usual statistics and those of the targets, metric by metric."""
    rows = []
    for metric, usual in _LATENCY.items():
        asked = {t.statistic: t for t in slo.targets if t.metric == metric}
        for statistic in sorted({*usual, *asked}, key=_order):
            value_s = metrics.latency_s[metric][statistic]
            rows.append(_held(latency_name(metric, statistic), value_s, asked.get(statistic), bool(slo.attainment)))
    return rows


def _order(statistic: str) -> float:
    return -1.0 if statistic == "mean" else float(statistic[1:])


def _held(name: str, value_s: float, target: Target | None, per_request: bool) -> Fact:
    if target is None or per_request:
        return Fact(name, late(value_s))
    verdict = "holds" if value_s < target.limit_s else "missed"
    return Fact(name, late(value_s), f"< {format_seconds(target.limit_s)}", verdict)
