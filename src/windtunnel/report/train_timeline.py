"""The pipeline's timeline as a chart: one lane per rank, one shape per pass.

Passes of one kind are one filled outline of many rectangles, so that thousands of them stay quick to draw and to
zoom. A long step shows its start and its end; its middle repeats what stands between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.report.perfetto import KINDS, direction, ends_s
from windtunnel.report.train_charts import COLOURS, rank_label, short, shown_ranks
from windtunnel.training.pipeline import Run
from windtunnel.training.step import StepTime
from windtunnel.units import format_seconds

Chart = dict[str, Any]

MOST_PER_RANK = 120
"""Passes of a rank that one chart shows at least before it is cut to a start and an end."""
HOVERED = 3000
"""Passes up to which each says what it is when pointed at."""
NUMBERED = 26
"""Passes of a rank up to which microbatch numbers are written on them."""
_COLOURS = {"F": "--c1", "X": "--c3", "B": "--c6", "W": "--c4"}
_HALF = 0.4


@dataclass(frozen=True, slots=True)
class Box:
    """One rectangle of the timeline."""

    lane: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the step.

    Attributes:
        title: what it shows.
        start_s, end_s: from when to when.
    """

    title: str
    start_s: float
    end_s: float


def windows(step: StepTime) -> tuple[Window, ...]:
    """The whole step, or its start and its end where it has too many passes to be read."""
    plan = step.job.plan
    most = max(Counter(run.rank for run in step.timeline).values(), default=0)
    # The first rank's passes before it is in step with the others, of an interleaved pipeline.
    warm_up = 2 * (plan.pipeline_parallel - 1) + (plan.virtual_stages - 1) * plan.pipeline_parallel
    wanted = max(MOST_PER_RANK, 1.5 * warm_up)
    if most <= 1.7 * wanted:
        return (Window("The whole step", 0.0, step.seconds),)
    length = step.seconds * wanted / most
    return (
        Window("The start of the step", 0.0, length),
        Window("The end of the step", step.seconds - length, step.seconds),
    )


def timeline_chart(step: StepTime, window: Window) -> Chart:
    """The passes of a window on every rank that is shown."""
    lanes = {rank: lane for lane, rank in enumerate(shown_ranks(len(step.ranks)))}
    runs = [
        run for run in step.timeline if run.rank in lanes and run.end_s > window.start_s and run.start_s < window.end_s
    ]
    data: list[Chart] = []
    for kind in ("F", "B", "X", "W"):
        boxes = [Box(lanes[run.rank], run.start_s, run.end_s) for run in runs if run.kind == kind]
        data += _shapes(KINDS[kind], boxes, _COLOURS[kind], window)
    data += _after(step, lanes, window)
    if len(runs) <= HOVERED:
        data.append(_pointed(step, runs, lanes, window))
    most = max(Counter(run.rank for run in runs).values(), default=0)
    if most <= NUMBERED:
        data.append(_numbers(step, runs, lanes, window))
    layout = {
        "xaxis": {"title": {"text": "seconds"}, "range": [short(window.start_s), short(window.end_s)]},
        "yaxis": {
            "tickvals": list(lanes.values()), "ticktext": [rank_label(rank) for rank in lanes], "ticksuffix": "  ",
            "range": [len(lanes) - 0.5, -0.5], "showgrid": False, "zeroline": False, "fixedrange": True,
        },
        "showlegend": False,
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _after(step: StepTime, lanes: dict[int, int], window: Window) -> list[Chart]:
    """Gradient reduction behind the last pass of each rank, then the update and the host."""
    parts: dict[str, list[Box]] = {"data": [], "offload": [], "optimizer": [], "host": []}
    for rank, lane in lanes.items():
        one = step.ranks[rank]
        parts["data"].append(Box(lane, one.end_s, one.end_s + ends_s(one)))
        at = step.seconds - sum(one.parts[name] for name in ("offload", "optimizer", "host"))
        for name in ("offload", "optimizer", "host"):
            parts[name].append(Box(lane, at, at + one.parts[name]))
            at += one.parts[name]
    said = {"data": "gradients and weights", "offload": "offloading", "optimizer": "optimiser", "host": "host"}
    least = 5e-4 * (window.end_s - window.start_s)
    found: list[Chart] = []
    for name, boxes in parts.items():
        inside = [box for box in boxes if box.end_s > window.start_s and box.start_s < window.end_s]
        seen = [box for box in inside if box.end_s - box.start_s > least]
        found += _shapes(said[name], seen, COLOURS[name], window)
    return found


def _shapes(name: str, boxes: Sequence[Box], colour: str, window: Window) -> list[Chart]:
    """All rectangles of a kind as one filled outline."""
    if not boxes:
        return []
    x: list[float | None] = []
    y: list[float | None] = []
    for box in boxes:
        start, end = short(max(box.start_s, window.start_s)), short(min(box.end_s, window.end_s))
        x += [start, end, end, start, None]
        low, high = round(box.lane - _HALF, 2), round(box.lane + _HALF, 2)
        y += [low, low, high, high, None]
    # A thin gap between passes, unless they are thinner than the gap.
    width = 0.8 if len(boxes) < 100 * (1 + max(box.lane for box in boxes)) else 0.3
    return [
        {
            "type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "fill": "toself", "fillcolor": colour,
            "line": {"color": "--card", "width": width}, "hoverinfo": "skip",
        },
    ]  # fmt: skip


def _middle(run: Run, window: Window) -> float:
    return short((max(run.start_s, window.start_s) + min(run.end_s, window.end_s)) / 2)


def _pointed(step: StepTime, runs: Iterable[Run], lanes: dict[int, int], window: Window) -> Chart:
    """Invisible marks in the middle of every pass that say what it is."""
    shown = list(runs)
    return {
        "type": "scatter", "mode": "markers",
        "x": [_middle(run, window) for run in shown], "y": [lanes[run.rank] for run in shown],
        "text": [_said(step, run) for run in shown], "hovertemplate": "%{text}<extra></extra>",
        "marker": {"size": 12, "opacity": 0},
    }  # fmt: skip


def _said(step: StepTime, run: Run) -> str:
    plan = step.job.plan
    chunk = f", chunk {run.stage // plan.pipeline_parallel}" if plan.virtual_stages > 1 else ""
    way = ", from the last rank" if direction(run, step) else ""
    return f"{KINDS[run.kind]} of microbatch {run.microbatch}{chunk}{way}<br>{format_seconds(run.end_s - run.start_s)}"


def _numbers(step: StepTime, runs: Iterable[Run], lanes: dict[int, int], window: Window) -> Chart:
    """Microbatch numbers on the passes."""
    shown = [run for run in runs if run.kind != "W"]
    return {
        "type": "scatter", "mode": "text", "hoverinfo": "skip", "cliponaxis": True,
        "x": [_middle(run, window) for run in shown], "y": [lanes[run.rank] for run in shown],
        "text": [f"{run.microbatch}{chr(39) if direction(run, step) else ''}" for run in shown],
        "textfont": {"color": "--card", "size": 10},
    }  # fmt: skip
