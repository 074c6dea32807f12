"""The HTML report of `compare`: distributions, time series and single requests side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from windtunnel.live.compare import Comparison
from windtunnel.live.measurement import Floats
from windtunnel.live.repeats import Repeated
from windtunnel.report.charts import Chart
from windtunnel.report.compare_text import NAMES, error, interval, leaning, named, repeats_error, share, shown
from windtunnel.report.html import Page, notes_html, section, tiles

_POINTS = 400
_MEASURED, _PREDICTED = "--c2", "--c1"


def compare_html(comparison: Comparison, source: str, repeats: Sequence[Repeated] = ()) -> str:
    """The report as one HTML file.

    Args:
        comparison: of the run that is shown.
        source: what it is called.
        repeats: the figures of all runs of its load, if it is the middle one of several.
    """
    page = Page(
        f"Windtunnel comparison: {source}", "Prediction beside measurement",
        f"{len(comparison.predicted.rows):,} requests of {source}, replayed.",
    )  # fmt: skip
    errors = {one.name: repeats_error(one) for one in repeats} or {one.name: error(one) for one in comparison.figures}
    page.add(tiles([(errors[f"{name}_mean_s"].strip("* "), f"{title}, mean", "") for name, title in NAMES.items()]))
    if repeats:
        about = (
            f"{len(repeats[0].measured)} runs. * no larger than what they leave open. All below is of the middle run."
        )
        page.add(section("All runs", _repeats(repeats), about=about))
    page.add(section("Figures", _figures(comparison), about="* within the measurement's own scatter."))
    page.add(section("Where the gap comes from", _reasons(comparison)))
    pairs = {name: _pair(comparison, name) for name in NAMES}
    curves = [page.figure(_cdf(*pairs[name], title), title) for name, title in NAMES.items()]
    page.add(section("Distributions", f'<div class="trio">{"".join(curves)}</div>'))
    dots = [page.figure(_scatter(*pairs[name]), title, "one dot a request") for name, title in NAMES.items()]
    page.add(section("Request by request", f'<div class="trio">{"".join(dots)}</div>'))
    page.add(section("Over time", page.figure(_running(comparison), "Requests in the system", short=True)))
    page.add(section("What to know", notes_html(comparison.notes)))
    return page.html("Made by Windtunnel.")


def _pair(comparison: Comparison, metric: str) -> tuple[Floats, Floats]:
    observed = comparison.measured.latency_s(metric)[comparison.predicted.rows]
    expected = comparison.predicted.latency_s(metric)
    both = np.isfinite(observed) & np.isfinite(expected)
    return observed[both], expected[both]


def _figures(comparison: Comparison) -> str:
    rows = "".join(
        f'<tr><td>{escape(named(f))}</td><td class="n">{escape(shown(f, f.measured))}</td>'
        f'<td class="open">{escape(interval(f))}</td><td class="n">{escape(shown(f, f.predicted))}</td>'
        f'<td class="open">{escape(leaning(f))}</td>'
        f'<td class="n">{escape(error(f))}</td></tr>'
        for f in comparison.figures
    )
    head = (
        '<tr><th>figure</th><th class="n">measured</th><th>its 80% interval</th>'
        '<th class="n">predicted</th><th>its 80% interval</th><th class="n">error</th></tr>'
    )
    return f'<div class="scroll"><table class="facts"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _repeats(repeats: Sequence[Repeated]) -> str:
    rows = "".join(
        f'<tr><td>{escape(named(f))}</td><td class="n">{escape(shown(f, f.middle))}</td>'
        f'<td class="open">{escape(shown(f, min(f.measured)))} to {escape(shown(f, max(f.measured)))}</td>'
        f'<td class="n">{share(f.left_open)}</td><td class="n">{escape(shown(f, f.predicted))}</td>'
        f'<td class="n">{escape(repeats_error(f))}</td></tr>'
        for f in repeats
    )
    head = (
        '<tr><th>figure</th><th class="n">median run</th><th>all runs</th><th class="n">left open (80%)</th>'
        '<th class="n">predicted</th><th class="n">error</th></tr>'
    )
    return f'<div class="scroll"><table class="facts"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _reasons(comparison: Comparison) -> str:
    if not comparison.reasons:
        return "<p>No part of the gap is above 0.5% of the end-to-end time.</p>"
    return notes_html([f"{reason.what}: {reason.why}" for reason in comparison.reasons])


def _cdf(observed: Floats, expected: Floats, title: str) -> Chart:
    data = []
    for name, values, colour in (("measured", observed, _MEASURED), ("predicted", expected, _PREDICTED)):
        shares = np.linspace(0.0, 1.0, min(_POINTS, max(len(values), 2)))
        x = np.quantile(values, shares) * 1e3 if len(values) else shares * 0
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": name, "x": _short(x), "y": _short(100 * shares),
                "line": {"color": colour, "width": 1.8},
                "hovertemplate": "%{y:.3g}% within %{x:.4g} ms<extra>" + name + "</extra>",
            }
        )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": f"{title}, ms"}, "type": "log"},
        "yaxis": {"title": {"text": "requests"}, "ticksuffix": "%"},
    }
    return {"data": data, "layout": layout}


def _scatter(observed: Floats, expected: Floats) -> Chart:
    keep = np.unique(np.linspace(0, len(observed) - 1, min(len(observed), _POINTS * 2)).astype(int))
    low = float(min(observed.min(initial=1.0), expected.min(initial=1.0))) * 1e3
    high = float(max(observed.max(initial=1e-3), expected.max(initial=1e-3))) * 1e3
    data = [
        {
            "type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "name": "equal",
            "line": {"color": "--soft", "width": 1.2, "dash": "dot"}, "hoverinfo": "skip",
        },
        {
            "type": "scatter", "mode": "markers", "name": "requests",
            "x": _short(observed[keep] * 1e3), "y": _short(expected[keep] * 1e3),
            "marker": {"color": _PREDICTED, "size": 4, "opacity": 0.6},
            "hovertemplate": "measured %{x:.4g} ms<br>predicted %{y:.4g} ms<extra></extra>",
        },
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "measured, ms"}, "type": "log"},
        "yaxis": {"title": {"text": "predicted, ms"}, "type": "log"},
        "showlegend": False,
    }
    return {"data": data, "layout": layout}


def _running(comparison: Comparison) -> Chart:
    rows = comparison.predicted.rows
    due_s = comparison.measured.due_s[rows]
    ends = {
        "measured": due_s + comparison.measured.e2e_s[rows],
        "predicted": due_s + comparison.predicted.e2e_s,
    }
    at_s = np.linspace(0.0, float(np.nanmax(np.concatenate(list(ends.values())))), _POINTS)
    data = []
    for (name, end_s), colour in zip(ends.items(), (_MEASURED, _PREDICTED), strict=True):
        inside = np.searchsorted(np.sort(due_s), at_s, side="right") - np.searchsorted(
            np.sort(end_s), at_s, side="right"
        )
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": name, "x": _short(at_s), "y": _short(inside),
                "line": {"color": colour, "width": 1.8}, "hovertemplate": "%{y:,.0f} " + name + "<extra></extra>",
            }
        )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "seconds"}},
        "yaxis": {"title": {"text": "requests"}, "rangemode": "tozero"},
        "hovermode": "x unified",
    }
    return {"data": data, "layout": layout}


def _short(values: npt.ArrayLike) -> list[float]:
    return [float(f"{value:.5g}") for value in np.asarray(values, dtype=np.float64).tolist()]
