"""The sections that show one simulation: latency distributions and what happened over time."""

from __future__ import annotations

from windtunnel.report import charts
from windtunnel.report.html import Page, section
from windtunnel.serving.result import Simulation
from windtunnel.specs.slo import SloSpec

_NAMES = {
    "ttft": ("Time to first token", "from arrival to the first token"),
    "tpot": ("Time per output token", "mean over a request's tokens after the first"),
    "e2e": ("End to end", "from arrival to the last token"),
}


def level_of(statistic: str) -> float | None:
    """The percentile of a statistic such as `p99`, from 0 to 1; None for the mean."""
    return float(statistic[1:]) / 100 if statistic.startswith("p") else None


def run_sections(page: Page, simulation: Simulation, slo: SloSpec, replicas: int) -> list[str]:
    """Latency distributions with their targets, then load, batch and KV use over time."""
    values = {"ttft": simulation.ttft_s, "tpot": simulation.tpot_s, "e2e": simulation.e2e_s}
    curves = []
    for metric, (title, note) in _NAMES.items():
        targets = [target for target in slo.targets if target.metric == metric]
        levels = [level for level in (level_of(target.statistic) for target in targets) if level is not None]
        chart = charts.cdf(values[metric], [target.limit_s for target in targets], levels, title)
        said = note + "; dashed: target" if targets else note
        curves.append(page.figure(chart, title, said))
    over_time = [
        page.figure(charts.arrivals(simulation), "Load", short=True),
        page.figure(charts.in_system(simulation), "Batch and queue", "all replicas together", short=True),
        page.figure(charts.kv_use(simulation, replicas), "KV cache", "mean over replicas", short=True),
        page.figure(charts.tokens(simulation), "Tokens", "prompt and output, per second", short=True),
    ]
    return [
        section("How long requests take", f'<div class="trio">{"".join(curves)}</div>'),
        section("Over time", f'<div class="pair">{"".join(over_time)}</div>'),
    ]


def step_section(page: Page, step: charts.Chart) -> str:
    """The mean step's time by operator beside the hardware's limit."""
    about = (
        "Each bar is one kind of operator in a step at this traffic's mean batch; "
        "the grey bar is the least time the hardware allows."
    )
    return section("Where a step's time goes", page.figure(step, "Time per step"), about=about)
