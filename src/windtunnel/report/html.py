"""Self-contained HTML pages: one file, no network, charts that follow light and dark mode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from windtunnel.metrics.summary import Metrics
from windtunnel.report.charts import Chart
from windtunnel.report.facts import Fact, late, latency_name
from windtunnel.report.json import plain
from windtunnel.report.launch import Launch
from windtunnel.report.text import percent
from windtunnel.specs.slo import SloSpec
from windtunnel.units import format_seconds


@cache
def _template(name: str) -> str:
    return (files("windtunnel.report") / "templates" / name).read_text(encoding="utf-8")


@dataclass(slots=True)
class Page:
    """A report being put together: sections in order, charts by the id of their place."""

    title: str
    heading: str
    lead: str
    parts: list[str] = field(default_factory=list)
    charts: dict[str, Chart] = field(default_factory=dict)

    def add(self, html: str) -> None:
        """Append a piece of HTML."""
        self.parts.append(html)

    def figure(self, chart: Chart | None, caption: str, note: str = "", short: bool = False) -> str:
        """A chart's place with its caption; nothing when there is no chart."""
        if chart is None or not chart["data"]:
            return ""
        name = f"chart-{len(self.charts) + 1}"
        self.charts[name] = chart
        said = f"{escape(caption)}<span>{escape(note)}</span>" if note else escape(caption)
        size = "chart short" if short else "chart"
        place = f'<div class="{size}" id="{name}" role="img" aria-label="{escape(caption)}"></div>'
        return f"<figure><figcaption>{said}</figcaption>{place}</figure>"

    def html(self, footer: str) -> str:
        """The finished page."""
        from plotly.offline import get_plotlyjs

        # "</" inside the data would end the script element early.
        charts = json.dumps(plain(self.charts), allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
        return Template(_template("page.html")).substitute(
            title=escape(self.title),
            heading=escape(self.heading),
            lead=escape(self.lead),
            style=_template("style.css"),
            body="\n".join(self.parts),
            footer=escape(footer),
            plotly=get_plotlyjs() if self.charts else "",
            charts=charts,
            script=_template("page.js"),
        )


def section(title: str, *content: str, about: str = "") -> str:
    """A titled section; nothing when it has no content."""
    inside = "\n".join(part for part in content if part)
    if not inside:
        return ""
    said = f"<p>{escape(about)}</p>" if about else ""
    return f"<section><h2>{escape(title)}</h2>{said}\n{inside}\n</section>"


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: (value, what it is, `good`, `bad` or empty)."""
    cells = [
        f'<div class="tile"><b{f" class={mood!r}" if mood else ""}>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name, mood in figures
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def target_tiles(metrics: Metrics, slo: SloSpec) -> list[tuple[str, str, str]]:
    """Key figures of the first targets: value, name with the limit, whether it holds."""
    if slo.attainment:
        mood = "good" if metrics.attainment >= slo.attainment else "bad"
        return [(percent(metrics.attainment), f"of requests within limits, target {percent(slo.attainment)}", mood)]
    figures = []
    for target in slo.targets[:2]:
        value_s = metrics.value_s(target)
        name = f"{latency_name(target.metric, target.statistic)}, target {format_seconds(target.limit_s)}"
        figures.append((late(value_s), name, "good" if value_s < target.limit_s else "bad"))
    return figures


def facts_html(rows: Sequence[Fact]) -> str:
    """Facts with their interval, target and whether it holds."""
    lines = []
    for fact in rows:
        mood = {"holds": "good", "missed": "bad"}.get(fact.verdict, "")
        target = f'{escape(fact.target)} <b class="{mood}">{escape(fact.verdict)}</b>' if fact.target else ""
        lines.append(
            f'<tr><td>{escape(fact.name)}</td><td class="n">{escape(fact.value)}</td>'
            f'<td class="open">{escape(fact.interval)}</td><td>{target}</td></tr>'
        )
    head = '<tr><th>figure</th><th class="n">value</th><th>80 % interval</th><th>target</th></tr>'
    table = f'<table class="facts"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def commands_html(commands: Sequence[Launch]) -> str:
    """Launch commands with a button that copies each."""
    parts = []
    for launch in commands:
        notes = "".join(f"<li>{escape(note)}</li>" for note in launch.notes)
        parts.append(
            f'<div class="command"><h3>{escape(launch.engine)} <button class="copy" type="button">Copy</button></h3>'
            f"<pre>{escape(launch.text(72))}</pre></div>" + (f"<ul>{notes}</ul>" if notes else "")
        )
    return "\n".join(parts)


def notes_html(notes: Sequence[str]) -> str:
    """A list of remarks."""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
