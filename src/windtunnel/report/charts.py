"""Charts as plain Plotly figures (data and layout). Colours are names of the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.serving.result import Simulation

Floats = npt.NDArray[np.float64]
Chart = dict[str, Any]

_COLOURS = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon")
_POINTS = 300
"""Points that a curve is thinned to; more would only make the page heavier."""


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate on the front's chart."""

    label: str
    group: str
    usd_per_h: float
    latency_s: float
    joules_per_token: float
    on_front: bool
    is_pick: bool


def front(points: Sequence[Point], latency_name: str, limit_s: float = math.nan) -> Chart:
    """Cost against latency, one colour and symbol per accelerator; the front joined by a line."""
    shown = [p for p in points if math.isfinite(p.usd_per_h) and math.isfinite(p.latency_s)]
    data: list[Chart] = []
    edge = sorted((p for p in shown if p.on_front), key=lambda p: (p.usd_per_h, p.latency_s))
    if len(edge) > 1:
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": "Pareto front", "hoverinfo": "skip",
                "x": [p.usd_per_h for p in edge], "y": [p.latency_s * 1e3 for p in edge],
                "line": {"color": "--soft", "width": 1.5, "dash": "dot"},
            }
        )  # fmt: skip
    for index, group in enumerate(dict.fromkeys(p.group for p in shown)):
        members = [p for p in shown if p.group == group]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": group,
                "x": [p.usd_per_h for p in members], "y": [p.latency_s * 1e3 for p in members],
                "text": [_hover(p) for p in members], "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "color": _COLOURS[index % 8], "symbol": _SYMBOLS[index % 8], "size": _sizes(members, shown),
                    "opacity": [1.0 if p.on_front else 0.45 for p in members], "line": {"color": "--card", "width": 1},
                },
            }
        )  # fmt: skip
    pick = next((p for p in shown if p.is_pick), None)
    if pick is not None:
        data.append(
            {
                "type": "scatter", "mode": "markers+text", "name": "the pick", "hoverinfo": "skip",
                "x": [pick.usd_per_h], "y": [pick.latency_s * 1e3],
                "text": ["the pick"], "textposition": "middle right",
                "textfont": {"color": "--ink", "weight": 700}, "showlegend": False,
                "marker": {"symbol": "circle-open", "size": 30, "color": "--ink", "line": {"width": 2}},
            }
        )  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "dollars per hour"}, "tickprefix": "$", "rangemode": "tozero"},
        "yaxis": {"title": {"text": f"{latency_name}, ms"}, **_latency_range(shown, limit_s)},
        **_limit_lines([limit_s * 1e3], across="y"),
    }
    return {"data": data, "layout": layout}


def _latency_range(points: Sequence[Point], limit_s: float) -> Chart:
    """The axis from zero to a little above the slowest, but not far beyond the target."""
    if math.isfinite(limit_s) and max((p.latency_s for p in points), default=0.0) > 2.5 * limit_s:
        return {"range": [0, 2500 * limit_s]}
    return {"rangemode": "tozero"}


def _hover(point: Point) -> str:
    joules = f"<br>{point.joules_per_token:.3g} J per output token" if math.isfinite(point.joules_per_token) else ""
    return f"<b>{point.label}</b><br>${point.usd_per_h:,.2f} per hour<br>{point.latency_s * 1e3:.4g} ms{joules}"


def _sizes(members: Sequence[Point], everyone: Sequence[Point]) -> list[float]:
    """Marker diameters whose area follows the energy per token (larger: more energy)."""
    most = max((p.joules_per_token for p in everyone if math.isfinite(p.joules_per_token)), default=0.0)
    return [
        9.0 + 14.0 * math.sqrt(p.joules_per_token / most) if most > 0 and math.isfinite(p.joules_per_token) else 11.0
        for p in members
    ]


def _limit_lines(limits: Sequence[float], across: str) -> Chart:
    """Dashed lines at target limits, across the x or the y axis."""
    shapes = []
    for limit in limits:
        if not math.isfinite(limit):
            continue
        ends = (
            {"x0": 0, "x1": 1, "xref": "paper", "y0": limit, "y1": limit}
            if across == "y"
            else {"y0": 0, "y1": 1, "yref": "paper", "x0": limit, "x1": limit}
        )
        shapes.append({"type": "line", **ends, "line": {"color": "--bad", "width": 1.5, "dash": "dash"}})
    return {"shapes": shapes} if shapes else {}


def cdf(values_s: Floats, limits_s: Sequence[float], levels: Sequence[float], name: str) -> Chart:
    """The distribution of a latency over requests, with its targets as dashed lines.

    Args:
        values_s: one value per request, seconds; nan where it never happened.
        limits_s: limits of its targets.
        levels: percentiles (0 to 1) the targets ask about, marked on the curve.
        name: what is shown, for the hover text.
    """
    values = np.sort(values_s[np.isfinite(values_s)])
    if not len(values):
        return {"data": [], "layout": {}}
    unit, scale = ("ms", 1e3) if float(np.median(values)) < 1 else ("s", 1.0)
    values = values * scale
    share = np.unique(np.concatenate([np.linspace(0, 0.99, _POINTS), np.linspace(0.99, 1, 60)]))
    at = np.quantile(values, share)
    data: list[Chart] = [
        {
            "type": "scatter", "mode": "lines", "name": name, "x": _short(at), "y": _short(100 * share, 4),
            "line": {"color": "--c1", "width": 2.5}, "showlegend": False,
            "hovertemplate": "%{y:.4g}% of requests within %{x:.4g} " + unit + "<extra></extra>",
        }
    ]  # fmt: skip
    if levels:
        marks = np.quantile(values, levels)
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": _short(marks), "y": [100 * level for level in levels],
                "marker": {"color": "--c2", "size": 9, "line": {"color": "--card", "width": 1}}, "showlegend": False,
                "hovertemplate": "p%{y:.4g}: %{x:.4g} " + unit + "<extra></extra>",
            }
        )  # fmt: skip
    spread = float(at[-1]) > 20 * max(float(at[len(at) // 10]), 1e-6)
    layout = {
        "xaxis": {"title": {"text": f"{name}, {unit}"}, **(_decades(at) if spread else {"rangemode": "tozero"})},
        "yaxis": {"title": {"text": "share of requests"}, "ticksuffix": "%", "range": [0, 101]},
        **_limit_lines([limit * scale for limit in limits_s], across="x"),
    }
    return {"data": data, "layout": layout}


def _decades(values: Floats) -> Chart:
    """A logarithmic axis labelled at 1 and 3 of each decade, or at 1 alone when there are many."""
    low, high = math.floor(math.log10(max(float(values[0]), 1e-6))), math.ceil(math.log10(float(values[-1])))
    steps = (1, 3) if high - low <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(low, high + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def arrivals(simulation: Simulation) -> Chart:
    """Requests arriving and finishing per second over the run."""
    edges = _edges(simulation)
    width = float(edges[1] - edges[0])
    middle = (edges[:-1] + edges[1:]) / 2
    seen = simulation.arrival_s[np.isfinite(simulation.arrival_s)]
    done = simulation.finish_s[np.isfinite(simulation.finish_s)]
    data = [
        _line(middle, np.histogram(seen, edges)[0] / width, "arriving", "--c8", "%{y:.3g} arriving/s"),
        _line(middle, np.histogram(done, edges)[0] / width, "finishing", "--c1", "%{y:.3g} finishing/s"),
    ]
    return {"data": data, "layout": _over_time("requests per second")}


def in_system(simulation: Simulation) -> Chart:
    """Requests running and waiting over the run, all replicas together."""
    if simulation.series is not None:
        time_s, running, waiting = simulation.series.time_s, simulation.series.running, simulation.series.waiting
    else:
        time_s = _edges(simulation)
        running = _count(simulation.scheduled_s, time_s) - _count(simulation.finish_s, time_s)
        waiting = _count(simulation.arrival_s, time_s) - _count(simulation.scheduled_s, time_s)
    keep = _thin(len(time_s))
    data = [
        _line(time_s[keep], running[keep], "running", "--c1", "%{y:,.0f} running"),
        _line(time_s[keep], waiting[keep], "waiting", "--c2", "%{y:,.0f} waiting"),
    ]
    return {"data": data, "layout": _over_time("requests")}


def kv_use(simulation: Simulation, replicas: int) -> Chart | None:
    """Share of the KV cache in use over the run; None when it was not recorded."""
    series = simulation.series
    if series is None or not len(series.time_s):
        return None
    keep = _thin(len(series.time_s))
    share = 100.0 * series.used_blocks[keep] / max(1, replicas * (simulation.settings.num_blocks - 1))
    data = [_line(series.time_s[keep], share, "KV cache in use", "--c3", "%{y:.3g}% in use")]
    layout = _over_time("KV cache in use")
    layout["yaxis"] |= {"ticksuffix": "%", "range": [0, max(5.0, min(101.0, 1.15 * float(share.max(initial=0.0))))]}
    layout["showlegend"] = False
    return {"data": data, "layout": layout}


def tokens(simulation: Simulation) -> Chart | None:
    """Tokens processed per second over the run, prompt and output; None when it was not recorded."""
    series = simulation.series
    if series is None or not len(series.time_s):
        return None
    keep = _thin(len(series.time_s))
    data = [_line(series.time_s[keep], series.tokens_per_s[keep], "tokens", "--c4", "%{y:,.0f} tokens/s")]
    layout = _over_time("tokens per second")
    layout["showlegend"] = False
    return {"data": data, "layout": layout}


def breakdown(names: Sequence[str], seconds: Sequence[float], light_s: Sequence[float], bound: Sequence[str]) -> Chart:
    """A step's time by operator beside the least time the hardware allows."""
    order = sorted(range(len(names)), key=lambda i: seconds[i])
    labels = [names[i] for i in order]
    hover = [
        f"<b>{names[i]}</b><br>{seconds[i] * 1e6:,.4g} µs, limited by {bound[i]}"
        f"<br>hardware's limit {light_s[i] * 1e6:,.4g} µs"
        for i in order
    ]
    common = {"type": "bar", "orientation": "h", "y": labels, "text": hover, "textposition": "none"}
    data = [
        {**common, "name": "hardware's limit", "x": [light_s[i] * 1e6 for i in order],
         "marker": {"color": "--c8"}, "hovertemplate": "%{text}<extra></extra>"},
        {**common, "name": "predicted", "x": [seconds[i] * 1e6 for i in order],
         "marker": {"color": "--c1"}, "hovertemplate": "%{text}<extra></extra>"},
    ]  # fmt: skip
    layout = {
        "barmode": "group",
        "bargap": 0.25,
        "xaxis": {"title": {"text": "microseconds per step"}},
        "yaxis": {"ticksuffix": "  "},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "xanchor": "left",
            "yanchor": "bottom",
            "traceorder": "reversed",
        },
    }
    return {"data": data, "layout": layout}


def _edges(simulation: Simulation) -> Floats:
    return np.linspace(0.0, max(simulation.makespan_s, 1e-9), 121)


def _count(times_s: Floats, at_s: Floats) -> npt.NDArray[np.int64]:
    """How many of the times lie at or before each moment."""
    return np.searchsorted(np.sort(times_s[np.isfinite(times_s)]), at_s, side="right")


def _thin(points: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, points - 1, min(points, 2 * _POINTS)).round().astype(np.int64))


def _line(x: npt.ArrayLike, y: npt.ArrayLike, name: str, colour: str, hover: str) -> Chart:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": _short(x), "y": _short(y),
        "line": {"color": colour, "width": 1.8}, "hovertemplate": hover + "<extra></extra>",
    }  # fmt: skip


def _over_time(title: str) -> Chart:
    return {
        "xaxis": {"title": {"text": "seconds"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "hovermode": "x unified",
    }


def _short(values: npt.ArrayLike, digits: int = 5) -> list[float]:
    """Numbers with few digits, so that the page stays small."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, dtype=np.float64).tolist()]
