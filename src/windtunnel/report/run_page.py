"""The HTML report of `simulate`."""

from __future__ import annotations

import math

from windtunnel.metrics.mean_batch import mean_batch
from windtunnel.report.explain import explain_step, step_chart
from windtunnel.report.facts import facts, late, latency_name
from windtunnel.report.html import Page, commands_html, facts_html, notes_html, section, target_tiles, tiles
from windtunnel.report.launch import launches
from windtunnel.report.run_charts import run_sections, step_section
from windtunnel.report.run_text import headline
from windtunnel.report.text import number
from windtunnel.search.serve import Run
from windtunnel.units import format_usd


def run_html(run: Run) -> str:
    """The report as one HTML file."""
    missed = run.metrics.violations(run.slo)
    heading = run.label if not run.slo.targets else ("Misses a target" if missed else "Every target holds")
    page = Page(f"Windtunnel simulation: {run.label}", heading, headline(run))
    page.add(tiles(_tiles(run)))
    page.add(section("What it does", facts_html(facts(run.metrics, run.slo, run.ends))))
    for part in run_sections(page, run.simulation, run.slo, run.deployment.plan.replicas):
        page.add(part)
    batch = mean_batch(run.simulation, run.deployment.model.attended_tokens)
    page.add(step_section(page, step_chart(explain_step(run.deployment, batch, "mean step"))))
    page.add(section("How to launch it", commands_html(launches(run.deployment, run.asked))))
    page.add(section("What to know", notes_html(run.notes)))
    return page.html(
        f"{len(run.simulation):,} requests, {int(run.simulation.steps.sum()):,} steps. Made by Windtunnel."
    )


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    m = run.metrics
    figures = target_tiles(m, run.slo)
    if not figures:
        figures = [(late(m.latency_s[k]["p99"]), latency_name(k, "p99"), "") for k in ("ttft", "tpot")]
    figures.append((number(m.output_tokens_per_s), "output tokens per second", ""))
    if math.isfinite(run.usd_per_h):
        figures.append((format_usd(run.usd_per_h), "per hour", ""))
        figures.append((format_usd(run.usd_per_million_tokens), "per million tokens", ""))
    figures.append((f"{number(m.joules_per_output_token)} J", "per output token", ""))
    return figures
