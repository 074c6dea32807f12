"""A validation as a page: predicted against measured, errors by group, the worst rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from windtunnel.evidence.score import Result
from windtunnel.evidence.validate import Validation
from windtunnel.report.charts import Chart
from windtunnel.report.html import Page

_COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8")
MOST_COLOURS = 8
WORST = 25
SHOWN_GROUPS = ("source", "gpu", "metric", "engine", "mode", "tier", "model")


def validation_html(done: Validation) -> str:
    """The page of a validation."""
    answer = done.as_dict()
    lead = (
        f"{answer['expressed']:,} of {answer['rows']:,} measured figures predicted; "
        f"median error {_percent(answer['median_abs_error'])}, "
        f"90 % of rows within {_percent(answer['p90_abs_error'])}, "
        f"bias {_percent(answer['bias'])}, {_percent(answer['coverage80'])} inside their 80 % interval."
    )
    page = Page(title="Predictions against measurements", heading=f"Validation of {done.table.path}", lead=lead)
    page.add("<section><h2>Predicted against measured</h2>")
    for metric, rows in _families(done.results).items():
        caption = f"{metric}: predicted against measured, both axes logarithmic; the line is equality"
        page.add(page.figure(scatter(rows, metric), caption))
    page.add("</section>")
    page.add("<section><h2>Error by group</h2>" + "".join(_group_table(answer, g) for g in SHOWN_GROUPS) + "</section>")
    page.add("<section><h2>The worst rows</h2>" + _worst(done.results) + "</section>")
    page.add("<section><h2>Not predicted</h2>" + _reasons(answer) + "</section>")
    return page.html("Signed errors are relative to the measurement.")


def _families(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by kind of figure, so that a chart holds one unit."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.tag("metric"), []).append(result)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def scatter(rows: Sequence[Result], name: str) -> Chart:
    """Predicted over measured, one colour per source or accelerator, with the line of equality."""
    groups = [g for g, _ in Counter(_group(row) for row in rows).most_common(MOST_COLOURS - 1)]
    values = [v for row in rows for v in (row.claim.measured, row.predicted) if v > 0]
    ends = [min(values), max(values)]
    data: list[Chart] = [
        {
            "type": "scatter", "mode": "lines", "name": "equal", "hoverinfo": "skip", "showlegend": False,
            "x": ends, "y": ends, "line": {"color": "--soft", "width": 1.5, "dash": "dot"},
        }
    ]  # fmt: skip
    for index, group in enumerate([*groups, ""]):
        members = [row for row in rows if (_group(row) if _group(row) in groups else "") == group]
        if members:
            data.append(_points(members, group or "others", _COLOURS[index % len(_COLOURS)]))
    axis = {"type": "log", "title": {"text": f"measured {name}"}}
    return {"data": data, "layout": {"xaxis": axis, "yaxis": {"type": "log", "title": {"text": f"predicted {name}"}}}}


def _group(row: Result) -> str:
    return row.tag("gpu")


def _points(rows: Sequence[Result], name: str, colour: str) -> Chart:
    return {
        "type": "scatter", "mode": "markers", "name": name,
        "x": [row.claim.measured for row in rows], "y": [row.predicted for row in rows],
        "text": [escape(f"{row.claim.id}: {row.tag('model')}, {row.tag('engine')}, {row.error:+.1%}") for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "size": 6, "opacity": 0.6},
    }  # fmt: skip


def _group_table(answer: Mapping[str, Any], group: str) -> str:
    members = answer["by"].get(group)
    if not members:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name or '(not stated)')}</td><td>{one['rows']:,}</td><td>{one['expressed']:,}</td>"
        f"<td>{_percent(one['median_abs_error'])}</td><td>{_percent(one['p90_abs_error'])}</td>"
        f"<td>{_percent(one['bias'])}</td><td>{_percent(one['coverage80'])}</td></tr>"
        for name, one in sorted(members.items(), key=lambda item: -item[1]["expressed"])
    )
    head = f"<th>{group}</th><th>rows</th><th>predicted</th><th>median</th><th>p90</th><th>bias</th><th>in 80 %</th>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _worst(results: Sequence[Result]) -> str:
    worst = sorted(results, key=lambda row: -abs(row.error))[:WORST]
    rows = "".join(
        f"<tr><td>{escape(row.claim.id)}</td><td>{escape(row.tag('model'))}</td><td>{escape(row.tag('gpu'))}</td>"
        f"<td>{escape(row.tag('engine'))}</td><td>{escape(row.tag('metric'))}</td><td>{row.claim.measured:,.4g}</td>"
        f"<td>{row.predicted:,.4g}</td><td>{row.error:+.0%}</td></tr>"
        for row in worst
    )
    head = "".join(
        f"<th>{h}</th>" for h in ("row", "model", "accelerator", "engine", "metric", "measured", "predicted", "error")
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _reasons(answer: Mapping[str, Any]) -> str:
    reasons = Counter(str(one["why"]) for one in answer["not_expressed"])
    rows = "".join(f"<tr><td>{count:,}</td><td>{escape(why)}</td></tr>" for why, count in reasons.most_common())
    return f"<table><thead><tr><th>rows</th><th>why</th></tr></thead><tbody>{rows}</tbody></table>" if rows else "None."


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
