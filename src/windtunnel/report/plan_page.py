"""The HTML report of `plan`."""

from __future__ import annotations

import math
from html import escape

from windtunnel.metrics.mean_batch import mean_batch
from windtunnel.metrics.summary import Metrics
from windtunnel.report import charts
from windtunnel.report.charts import Point
from windtunnel.report.explain import explain_step, step_chart
from windtunnel.report.facts import facts, late, latency_name
from windtunnel.report.html import Page, commands_html, facts_html, notes_html, section, target_tiles, tiles
from windtunnel.report.launch import launches
from windtunnel.report.run_charts import run_sections, step_section
from windtunnel.report.terminal import headroom, in_brackets, rejected, workload_sentence
from windtunnel.report.text import number
from windtunnel.search.result import Candidate, PlanResult
from windtunnel.specs.slo import SloSpec, Target
from windtunnel.units import format_usd

_WORDS = {
    "meets": "meets",
    "misses": "misses",
    "infeasible": "cannot run",
    "dominated": "cannot win",
    "skipped": "not looked at",
}


def plan_html(result: PlanResult) -> str:
    """The report as one HTML file."""
    chosen = result.pick or result.closest
    if result.pick is not None:
        heading = f"Deploy on {in_brackets(result.pick.label)}"
        lead = f"{result.model}, {result.slo}. {workload_sentence(result)}."
    else:
        heading = "Nothing meets the targets"
        lead = f"{result.model}, {result.slo}. {workload_sentence(result)}."
        lead += f" The closest is {chosen.label}." if chosen else " No candidate can run at all."
    page = Page(f"Windtunnel plan: {result.model}", heading, lead)
    if chosen is not None:
        if chosen.binding:
            page.lead += f" At capacity the first to give way is {chosen.binding}."
        page.add(tiles(_tiles(chosen, result)))
        if chosen.metrics is not None:
            about = chosen.reason if result.pick is None else ""
            page.add(
                section(
                    "What it does at this traffic",
                    facts_html(facts(chosen.metrics, result.slo, result.ends)),
                    about=about,
                )
            )
        page.add(section("How to launch it", commands_html(launches(chosen.deployment, result.model))))
    page.add(_front(page, result))
    if result.simulation is not None and chosen is not None:
        for part in run_sections(page, result.simulation, result.slo, chosen.deployment.plan.replicas):
            page.add(part)
        batch = mean_batch(result.simulation, chosen.deployment.model.attended_tokens)
        page.add(step_section(page, step_chart(explain_step(chosen.deployment, batch, "the mean step"))))
    page.add(_candidates(result))
    page.add(section("What to know", notes_html(result.notes)))
    seconds = f"{result.elapsed_s:.1f} s"
    return page.html(
        f"{len(result.candidates):,} candidates, {result.simulations:,} simulations, {seconds}. Made by Windtunnel."
    )


def _tiles(chosen: Candidate, result: PlanResult) -> list[tuple[str, str, str]]:
    figures = [(f"{format_usd(chosen.usd_per_h)}", "per hour", "")]
    if chosen.metrics is not None:
        figures += target_tiles(chosen.metrics, result.slo)
    room = headroom(chosen, result.workload.rate_per_s)
    if math.isfinite(room):
        figures.append(
            (f"{room:.0%}", "head-room", "") if room >= 0 else (f"{1 + room:.0%}", "of this traffic carried", "")
        )
    if math.isfinite(chosen.usd_per_million_tokens):
        figures.append((format_usd(chosen.usd_per_million_tokens), "per million tokens", ""))
    if math.isfinite(chosen.joules_per_output_token):
        figures.append((f"{number(chosen.joules_per_output_token)} J", "per output token", ""))
    return figures


def latency_of(metrics: Metrics | None, slo: SloSpec) -> float:
    """The latency shown on the front: the first target on time per token, else the first target."""
    if metrics is None:
        return math.nan
    target = front_target(slo)
    return metrics.value_s(target)


def front_target(slo: SloSpec) -> Target:
    """The target whose metric the front is drawn over."""
    ordered = sorted(slo.targets, key=lambda t: t.metric not in ("tpot", "itl"))
    return ordered[0] if ordered else Target(metric="tpot", statistic="p99", limit_s=math.inf)


def _front(page: Page, result: PlanResult) -> str:
    target = front_target(result.slo)
    chosen = result.pick or result.closest
    edge = set(result.pareto)
    points = [
        Point(
            c.label,
            c.deployment.accelerator.name,
            c.usd_per_h,
            latency_of(c.metrics, result.slo),
            c.joules_per_output_token,
            index in edge,
            c is chosen,
        )
        for index, c in enumerate(result.candidates)
        if c.metrics is not None
    ]
    if not points:
        return ""
    name = f"{target.metric.upper()} {target.statistic}"
    limit_s = target.limit_s if result.slo.targets else math.nan
    chart = charts.front(points, name, limit_s)
    about = (
        "Every simulated candidate. Left is cheaper, lower is faster, a smaller mark takes less energy per token; "
        "solid marks are beaten by no other in all three. The dashed line is the target."
    )
    return section("Cost, latency and energy", page.figure(chart, f"{name} against cost"), about=about)


def _candidates(result: PlanResult) -> str:
    names = ["", "deployment", "outcome", "$/h", *(latency_name(t.metric, t.statistic) for t in result.slo.targets)]
    names += ["capacity, req/s", "$/M tokens", "J/token", "why"]
    numeric = [False, False, False, *([True] * (len(names) - 4)), False]
    head = "".join(
        f'<th{" class=n" if n else ""}><button type="button">{escape(name or "#")}</button></th>'
        for name, n in zip(names, numeric, strict=True)
    )
    chosen = result.pick or result.closest
    rows = [_row(i, c, result.slo, names, c is chosen) for i, c in enumerate(result.candidates)]
    kinds = dict.fromkeys(c.outcome for c in result.candidates)
    options = "".join(f'<option value="{kind}">{_WORDS[kind]}</option>' for kind in kinds)
    tools = (
        '<div class="tools"><input id="filter" type="search" placeholder="Filter: h100 tp4 fp8" aria-label="Filter">'
        f'<select id="outcome" aria-label="Outcome"><option value="">every outcome</option>{options}</select>'
        '<span class="count" id="count" aria-live="polite"></span></div>'
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    body = f'<div class="scroll"><table class="cards" id="candidates">{table}</table></div>'
    more = '<div class="tools"><button id="more" type="button">Show all</button></div>'
    lost = "; ".join(f"{count} {said}" for said, count, _ in rejected(result))
    return section("Every candidate", tools, body, more, about=f"Rejected: {lost}." if lost else "")


def _row(index: int, candidate: Candidate, slo: SloSpec, names: list[str], chosen: bool) -> str:
    cells = [f'<td data-value="{index + 1}">{index + 1}</td>', f'<td class="wide title">{escape(candidate.label)}</td>']
    cells.append(f'<td class="wide">{_WORDS[candidate.outcome]}</td>')
    figures: list[tuple[float, str]] = [(candidate.usd_per_h, format_usd(candidate.usd_per_h))]
    for target in slo.targets:
        value_s = candidate.metrics.value_s(target) if candidate.metrics is not None else math.nan
        figures.append((value_s, late(value_s)))
    for value in (candidate.capacity_per_s, candidate.usd_per_million_tokens, candidate.joules_per_output_token):
        figures.append((value, number(value)))
    for name, (value, text) in zip(names[3:], figures, strict=False):
        known = math.isfinite(value)
        shown, sortable = (escape(text), f"{value:.6g}") if known else ("", "")
        cells.append(f'<td class="n" data-label="{escape(name)}" data-value="{sortable}">{shown}</td>')
    cells.append(f'<td class="why wide">{escape(candidate.reason)}</td>')
    mark = ' class="pick"' if chosen else ""
    return f'<tr data-outcome="{candidate.outcome}"{mark}>{"".join(cells)}</tr>'
