"""The figures of a run that a person asks for: name, value, target and verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from windtunnel.metrics.summary import Metrics
from windtunnel.report.text import number, percent
from windtunnel.specs.slo import SloSpec, Target
from windtunnel.units import format_seconds

_LATENCY = {"ttft": ("p50", "p99"), "tpot": ("p50", "p99"), "e2e": ("p50", "p99")}
"""Statistics that are always shown; those of the targets are added."""

UNSURE = {"holds": "may miss", "missed": "may hold"}
"""Verdicts whose interval reaches beyond the target: the figure itself holds and misses, respectively."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure: its name, its value as text and number, the target it is held to, if any, and its 80 % interval.

    Figures that are counted rather than predicted have neither number nor interval.
    """

    name: str
    value: str
    target: str = ""
    verdict: str = ""
    interval: str = ""
    amount: float = math.nan


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


def facts(metrics: Metrics, slo: SloSpec, ends: tuple[Metrics, Metrics] | None = None) -> list[Fact]:
    """What a run did: latencies with their targets, then rates and use.

    Args:
        metrics: of the run.
        slo: the targets.
        ends: of the same run with all costs at the low and at the high end of their 80 % intervals.
    """
    rows = _facts(metrics, slo)
    if ends is None:
        return rows
    others = [{fact.name: fact for fact in _facts(end, slo)} for end in ends]
    return [_between(fact, [one[fact.name] for one in others if fact.name in one]) for fact in rows]


def _between(fact: Fact, ends: list[Fact]) -> Fact:
    """The figure with its interval, from its values at the ends of the costs'."""
    known = [one for one in (fact, *ends) if not math.isnan(one.amount)]
    if math.isnan(fact.amount) or len(known) < 3:
        return fact
    low, high = min(known, key=lambda one: one.amount), max(known, key=lambda one: one.amount)
    verdict = fact.verdict
    if any(one.verdict != verdict for one in ends):
        verdict = UNSURE[verdict]
    return replace(fact, interval=f"{low.value} to {high.value}", verdict=verdict)


def _facts(metrics: Metrics, slo: SloSpec) -> list[Fact]:
    rows = [*_latencies(metrics, slo)]
    if slo.attainment:
        share = metrics.attainment
        verdict = "holds" if share >= slo.attainment else "missed"
        held = f">= {percent(slo.attainment)}"
        rows.append(Fact("requests within limits", percent(share), held, verdict, amount=share))
    everyone = metrics.finished == metrics.requests
    count = f"all {metrics.requests:,}" if everyone else f"{metrics.finished:,} of {metrics.requests:,}"
    rows.append(Fact("requests finished", count))
    if metrics.rejected:
        rows.append(Fact("requests too long to serve", f"{metrics.rejected:,}"))
    rows += [
        Fact("output tokens per second", number(rate := metrics.output_tokens_per_s), amount=rate),
        Fact("replicas busy", percent(metrics.busy_share), amount=metrics.busy_share),
        Fact("tokens per step", number(metrics.mean_batch_tokens), amount=metrics.mean_batch_tokens),
        Fact("KV cache in use, peak", percent(metrics.peak_kv_share), amount=metrics.peak_kv_share),
    ]
    if metrics.preemptions:
        rows.append(Fact("preemptions", f"{metrics.preemptions:,}"))
    if metrics.prefix_hit_share > 0:
        rows.append(Fact("prompt tokens from the prefix cache", percent(metrics.prefix_hit_share)))
    if metrics.speculation is not None:
        rows += _drafting(metrics.speculation)
    if metrics.adapters is not None:
        rows += _adapters(metrics.adapters)
    if not metrics.kept_up:
        rows.append(Fact("queues", "growing"))
    return rows


def _drafting(figures: Mapping[str, float]) -> list[Fact]:
    """How much was accepted, what a request gained in a step, and what share of the time drafting took."""
    share = figures["drafting_share"]
    return [
        Fact("drafted tokens accepted", percent(figures["draft_acceptance"])),
        Fact("tokens per request and step", number(figures["tokens_per_round"])),
        Fact("time spent drafting", percent(share), amount=share),
    ]


def _adapters(figures: Mapping[str, float]) -> list[Fact]:
    """How many different adapters a step held, and what share of the time it waited for one."""
    return [
        Fact("adapters per step", number(figures["adapters_per_step"])),
        Fact("adapters copied to the device", f"{figures['adapter_loads']:,.0f}"),
        Fact("time spent copying them", percent(figures["adapter_load_share"])),
    ]


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
        return Fact(name, late(value_s), amount=value_s)
    verdict = "holds" if value_s < target.limit_s else "missed"
    return Fact(name, late(value_s), f"< {format_seconds(target.limit_s)}", verdict, amount=value_s)
