"""Charts of a training step: time and memory by pipeline rank, the way from the peak rate to the step, candidates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from windtunnel.report.text import percent
from windtunnel.report.train_facts import limit_s
from windtunnel.training.answer import Candidate, TrainingAnswer
from windtunnel.training.memory import MemoryStack
from windtunnel.training.reasons import WORDS
from windtunnel.training.step import StepTime, peak_flops_per_s
from windtunnel.units import format_seconds, format_usd

Chart = dict[str, Any]

MOST_RANKS = 16
"""Pipeline ranks that a chart shows; of more, evenly spaced ones with the first and the last."""
COLOURS = {
    "forward": "--c1", "backward": "--c3", "recompute": "--c4", "tensor": "--c2", "context": "--c6", "expert": "--c7",
    "data": "--c5", "pipeline": "--bad", "bubble": "--grid", "optimizer": "--ink", "offload": "--soft", "host": "--c8",
}  # fmt: skip
"""One colour per part of a step, the same in every chart."""
_MEMORY = ("--c1", "--c3", "--c4", "--c2", "--c6", "--c5", "--c7")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon")
_SERIES = ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8")


def shown_ranks(ranks: int) -> list[int]:
    """The pipeline ranks that a chart shows.

    >>> shown_ranks(4), len(shown_ranks(64)), shown_ranks(64)[-1]
    ([0, 1, 2, 3], 16, 63)
    """
    if ranks <= MOST_RANKS:
        return list(range(ranks))
    return [round(i * (ranks - 1) / (MOST_RANKS - 1)) for i in range(MOST_RANKS)]


def short(value: float) -> float:
    """A number with few digits, so that the page stays small."""
    return float(f"{value:.5g}")


def time_by_rank(step: StepTime) -> Chart:
    """Where the time of a step goes on every pipeline rank, stacked."""
    ranks = shown_ranks(len(step.ranks))
    labels = [rank_label(rank) if len(ranks) > 1 else "step" for rank in ranks]
    unit, scale = _unit(step.seconds)
    data = []
    for name, said in WORDS.items():
        values = [max(step.ranks[rank].parts[name], 0.0) for rank in ranks]
        if max(values) < 1e-3 * step.seconds:
            continue
        hover = [f"{format_seconds(value)}, {percent(value / step.seconds)}" for value in values]
        data.append(_bar(said, labels, [value * scale for value in values], COLOURS[name], hover))
    layout = _stacked(f"{unit} per step")
    layout["xaxis"]["range"] = [0, short(step.seconds * scale)]
    return {"data": data, "layout": layout}


def memory_by_rank(stacks: Sequence[MemoryStack]) -> Chart:
    """Memory of every pipeline rank at its peak, stacked, with the device's memory as a line."""
    fullest = max(range(len(stacks)), key=lambda rank: stacks[rank].total_bytes)
    ranks = sorted({*shown_ranks(len(stacks)), fullest})
    labels = [rank_label(stacks[rank].stage) if len(ranks) > 1 else "peak" for rank in ranks]
    sizes: Counter[str] = Counter()
    for stack in stacks:
        for row in stack.rows():
            sizes[row.name] += row.bytes  # type: ignore[assignment]
    named = [name for name, size in sizes.most_common(len(_MEMORY)) if size > 0]
    data = []
    for name, colour in zip(named, _MEMORY, strict=False):
        values = [sum(row.bytes for row in stacks[rank].rows() if row.name == name) for rank in ranks]
        data.append(_memory_bar(name, labels, values, colour, stacks, ranks))
    rest = [sum(row.bytes for row in stacks[rank].rows() if row.name not in named) for rank in ranks]
    if max(rest) > 0:
        data.append(_memory_bar("all else", labels, rest, "--c8", stacks, ranks))
    layout = _stacked("GB per accelerator")
    limit = stacks[0].device_bytes / 1e9
    most = max(stack.total_bytes for stack in stacks) / 1e9
    layout["xaxis"]["range"] = [0, short(1.04 * max(limit, most))]
    layout["shapes"] = [
        {
            "type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "--bad", "width": 1.5, "dash": "dash"},
        }
    ]  # fmt: skip
    return {"data": data, "layout": layout}


def _memory_bar(
    name: str, labels: list[str], values: list[float], colour: str, stacks: Sequence[MemoryStack], ranks: list[int]
) -> Chart:
    hover = [
        f"{value / 1e9:,.2f} GB of {stacks[rank].total_bytes / 1e9:,.1f} GB ({stacks[rank].moment})"
        for value, rank in zip(values, ranks, strict=True)
    ]
    return _bar(name, labels, [value / 1e9 for value in values], colour, hover)


def rank_label(rank: int) -> str:
    """`rank 3`."""
    return f"rank {rank}"


def _bar(name: str, labels: list[str], values: list[float], colour: str, hover: list[str]) -> Chart:
    return {
        "type": "bar", "orientation": "h", "name": name, "y": labels, "x": [short(value) for value in values],
        "marker": {"color": colour}, "text": hover, "textposition": "none",
        "hovertemplate": "<b>%{y}</b>, " + name + "<br>%{text}<extra></extra>",
    }  # fmt: skip


def _stacked(title: str) -> Chart:
    return {
        "barmode": "stack",
        "bargap": 0.22,
        "xaxis": {"title": {"text": title}},
        "yaxis": {"autorange": "reversed", "ticksuffix": "  ", "type": "category"},
        "showlegend": False,
    }


def _unit(seconds: float) -> tuple[str, float]:
    return ("seconds", 1.0) if seconds >= 1.0 else ("milliseconds", 1e3)


def ladder(step: StepTime) -> list[tuple[str, float, str]]:
    """(what, seconds, part) from the model's work at the peak rate up to the step; the seconds add up to it."""
    peak = peak_flops_per_s(step.job) * step.job.gpus
    at_peak = limit_s(step)
    # What is computed twice, and what model FLOPs leave out, at the peak rate.
    again = max(step.hardware_flops / peak - at_peak, 0.0)
    compute = sum(step.parts[name] for name in ("forward", "backward", "recompute"))
    rows = [("the model's work at the peak rate", at_peak, "forward")]
    rows.append(("work done twice or not counted", again, "recompute"))
    rows.append(("kernels below the peak rate", compute - at_peak - again, "backward"))
    others = [name for name in WORDS if name not in ("forward", "backward", "recompute")]
    rows += [(WORDS[name], step.parts[name], name) for name in others]
    return [row for row in rows if abs(row[1]) > 5e-4 * step.seconds]


def ladder_chart(step: StepTime) -> Chart:
    """The ladder as bars that start where the one above ends."""
    unit, scale = _unit(step.seconds)
    rows = ladder(step)
    starts, at = [], 0.0
    for _, seconds, _ in rows:
        starts.append(at)
        at += seconds
    names, taken = [row[0] for row in rows], [row[1] for row in rows]
    hover = [f"{format_seconds(value)}, {percent(value / step.seconds)}" for value in taken]
    colours = [COLOURS[part] if part != "bubble" else "--c8" for _, _, part in rows]
    data = [
        {
            "type": "bar", "orientation": "h", "y": names, "x": [short(value * scale) for value in taken],
            "base": [short(start * scale) for start in starts], "marker": {"color": colours},
            "text": hover, "textposition": "none", "showlegend": False,
            "hovertemplate": "<b>%{y}</b><br>%{text}<extra></extra>",
        }
    ]  # fmt: skip
    layout = _stacked(unit)
    layout["barmode"] = "overlay"
    layout["xaxis"]["range"] = [0, short(1.02 * step.seconds * scale)]
    return {"data": data, "layout": layout}


def candidates_chart(answer: TrainingAnswer) -> Chart:
    """Every candidate's step time, memory and price: seconds across, GB up, a larger mark is dearer per token."""
    everyone = answer.candidates
    if len(everyone) < 2:
        return {"data": [], "layout": {}}
    edge = {id(everyone[i]) for i in answer.frontier}
    clusters = len({_cluster(one) for one in everyone}) > 1
    ordered = sorted(everyone, key=lambda one: (one.job.gpus if clusters else 0, one.job.plan.pipeline_parallel))
    groups = list(dict.fromkeys(_cluster(one) if clusters else _pipeline(one) for one in ordered))
    data = []
    for index, group in enumerate(groups):
        members = [one for one in everyone if (_cluster(one) if clusters else _pipeline(one)) == group]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": group,
                "x": [short(one.step.seconds) for one in members],
                "y": [short(one.memory.total_bytes / 1e9) for one in members],
                "text": [_hover(one) for one in members], "hovertemplate": "%{text}<extra></extra>",
                "marker": {
                    "color": _SERIES[index % 8], "symbol": _SYMBOLS[index % 8], "size": _sizes(members, everyone),
                    "opacity": [1.0 if id(one) in edge else 0.5 for one in members],
                    "line": {"color": "--card", "width": 1},
                },
            }
        )  # fmt: skip
    if answer.best is not None:
        data.append(_pick(answer.best))
    layout: Chart = {
        "xaxis": {"title": {"text": "seconds per step"}},
        "yaxis": {"title": {"text": "GB per accelerator"}, "rangemode": "tozero"},
    }
    limits = sorted({one.memory.device_bytes / 1e9 for one in everyone})
    layout["shapes"] = [
        {
            "type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": limit, "y1": limit,
            "line": {"color": "--bad", "width": 1.5, "dash": "dash"},
        }
        for limit in limits
    ]  # fmt: skip
    return {"data": data, "layout": layout}


def _pick(best: Candidate) -> Chart:
    return {
        "type": "scatter", "mode": "markers+text", "hoverinfo": "skip", "showlegend": False,
        "x": [short(best.step.seconds)], "y": [short(best.memory.total_bytes / 1e9)],
        "text": ["the pick"], "textposition": "middle right", "textfont": {"color": "--ink", "weight": 700},
        "marker": {"symbol": "circle-open", "size": 26, "color": "--ink", "line": {"width": 2}},
    }  # fmt: skip


def _cluster(one: Candidate) -> str:
    return f"{one.job.gpus:,} x {one.job.accelerator.name}"


def _pipeline(one: Candidate) -> str:
    stages = one.job.plan.pipeline_parallel
    return f"PP {stages}" if stages > 1 else "no pipeline"


def _hover(one: Candidate) -> str:
    dear = f"<br>{format_usd(one.usd_per_million_tokens)} per million tokens" if math.isfinite(one.usd_per_h) else ""
    return (
        f"<b>{one.label}</b><br>{_cluster(one)}<br>{format_seconds(one.step.seconds)} a step, "
        f"MFU {percent(one.step.mfu)}<br>{one.memory.total_bytes / 1e9:,.0f} GB{dear}"
    )


def _sizes(members: Sequence[Candidate], everyone: Sequence[Candidate]) -> list[float]:
    """Marker diameters from the cheapest to the dearest price per token."""
    prices = [one.usd_per_million_tokens for one in everyone if math.isfinite(one.usd_per_million_tokens)]
    if not prices or max(prices) <= min(prices):
        return [11.0 for _ in members]
    low, high = min(prices), max(prices)
    return [
        short(8.0 + 12.0 * (one.usd_per_million_tokens - low) / (high - low))
        if math.isfinite(one.usd_per_million_tokens)
        else 8.0
        for one in members
    ]
