"""The HTML report of `train`: the layout, where time and memory go, the pipeline, the candidates, how to launch it."""

from __future__ import annotations

import math
from html import escape

from windtunnel.report.facts import Fact
from windtunnel.report.html import Page, facts_html, notes_html, section, tiles
from windtunnel.report.perfetto import with_timeline
from windtunnel.report.text import number, percent
from windtunnel.report.train_charts import (
    MOST_RANKS,
    Chart,
    candidates_chart,
    ladder_chart,
    memory_by_rank,
    time_by_rank,
)
from windtunnel.report.train_facts import binding, layout_sentence, limit_s, rate_band, seconds_interval
from windtunnel.report.train_launch import TrainingLaunch, launch_commands
from windtunnel.report.train_text import counted, money
from windtunnel.report.train_timeline import timeline_chart, windows
from windtunnel.training.answer import Candidate, TrainingAnswer
from windtunnel.training.memory import MemoryStack, stage_stacks
from windtunnel.training.step import StepTime
from windtunnel.units import format_seconds, format_si, format_usd

_PROVENANCE = {
    "measured": "kernels measured on this device",
    "calibrated": "kernels calibrated on this device",
    "datasheet": "the datasheet and the device family's constants; nobody has measured this device",
}

FEW_RANKS = 4
"""Pipeline ranks up to which a low chart does."""


def train_html(answer: TrainingAnswer) -> str:
    """The report as one HTML file."""
    best = answer.best
    page = Page(f"Windtunnel train: {answer.asked}", _heading(answer), _lead(answer))
    if best is None:
        page.add(_nearest(page, answer))
    else:
        page.add(tiles(_tiles(best, answer)))
        page.add(_figures(best, answer))
        page.add(_time(page, best.step))
        page.add(_memory(page, stage_stacks(best.job), best.memory))
        page.add(_timeline(page, with_timeline(best.step)))
        page.add(_launch(best))
    page.add(_candidates(page, answer))
    page.add(_rejected(answer))
    page.add(section("What to know", notes_html([*answer.notes, *_notes(answer)])))
    return page.html(_footer(answer))


def _heading(answer: TrainingAnswer) -> str:
    best = answer.best
    if best is None:
        return "No layout fits"
    where = f"{best.job.gpus:,} x {best.job.accelerator.name}"
    if not best.memory.fits:
        return f"{best.label} does not fit {where}"
    return f"{best.label} on {where}" if answer.given else f"Train on {where} as {best.label}"


def _lead(answer: TrainingAnswer) -> str:
    best = answer.best
    if best is None:
        found = answer.smallest
        if found is None:
            return f"{answer.asked}: no cluster of up to 65,536 accelerators of this kind would hold it."
        size = f"{found.gpus:,} accelerator" + ("s" if found.gpus > 1 else "")
        return f"{answer.asked}: the smallest cluster that would hold it has {size}, as {found.plan.label()}."
    job = best.job
    text = (
        f"{answer.asked}, {job.global_batch_sequences:,} sequences of {job.seq_len:,} tokens a step "
        f"({counted(job.tokens)} tokens). {layout_sentence(best)}."
    )
    if not best.memory.fits:
        reason = best.memory.reason()
        text += f" It {reason}."
    elif not answer.given:
        goals = {"time": "the shortest step", "price": "the lowest price", "energy": "the least energy per token"}
        text += f" That is {goals[answer.objective]} of {answer.counts.fit:,} layouts that fit."
    return text


def _tiles(best: Candidate, answer: TrainingAnswer) -> list[tuple[str, str, str]]:
    step = best.step
    used = best.memory.total_bytes / best.memory.device_bytes
    figures = [
        (format_seconds(step.seconds), "per step", ""),
        (percent(step.mfu), "MFU", ""),
        (number(step.tokens_per_s_per_gpu), "tokens/s per accelerator", ""),
        (f"{best.memory.total_bytes / 1e9:,.1f} GB", f"memory, {used:.0%} of the accelerator's",
         "" if best.memory.fits else "bad"),
    ]  # fmt: skip
    if math.isfinite(best.usd_per_h):
        figures.append((format_usd(best.usd_per_million_tokens), "per million tokens", ""))
    figures.append((f"{number(best.joules_per_token)} J", "per token", ""))
    if answer.budget is not None:
        figures.append((format_seconds(answer.budget.seconds), f"for {counted(answer.budget.tokens)} tokens", ""))
        if math.isfinite(answer.budget.usd):
            figures.append(
                (money(answer.budget.usd).replace(" million", "M"), f"for {counted(answer.budget.tokens)} tokens", "")
            )
    return figures


def _dear(usd: float) -> str:
    """A large sum, short."""
    if usd >= 1e6:
        return f"${usd / 1e6:,.1f}M"
    return f"${usd:,.0f}" if usd >= 1e4 else format_usd(usd)


def _figures(best: Candidate, answer: TrainingAnswer) -> str:
    """Every figure with its interval."""
    step, job = best.step, best.job
    low, high = rate_band(step.provenance)
    known = math.isfinite(low)
    ends = seconds_interval(step)
    tokens, work = step.tokens_per_s_per_gpu * job.gpus, step.model_flops_per_s_per_gpu
    rows = [
        Fact("step", format_seconds(step.seconds),
             interval=_between(format_seconds(ends[0]), format_seconds(ends[1]), known)),
        Fact("MFU", percent(step.mfu), interval=_between(percent(step.mfu * low), percent(step.mfu * high), known)),
        Fact("HFU, recomputation counted as work", percent(step.hfu)),
        Fact("tokens/s", number(tokens), interval=_between(number(tokens * low), number(tokens * high), known)),
        Fact("FLOP/s per accelerator", format_si(work, "FLOP/s"),
             interval=_between(format_si(work * low, "FLOP/s"), format_si(work * high, "FLOP/s"), known)),
        Fact("energy per token", f"{number(best.joules_per_token)} J"),
        Fact("power per accelerator, server included", f"{number(step.joules / step.seconds / job.gpus)} W"),
    ]  # fmt: skip
    if math.isfinite(best.usd_per_h):
        dear = best.usd_per_million_tokens
        between = _between(format_usd(dear / high), format_usd(dear / low), known)
        rows.append(Fact("price per million tokens", format_usd(dear), interval=between))
        rows.append(Fact("price per hour", format_usd(best.usd_per_h * job.gpus)))
    if answer.budget is not None:
        budget = answer.budget
        between = f"{format_seconds(budget.seconds / high)} to {format_seconds(budget.seconds / low)}" if known else ""
        rows.append(
            Fact(f"{counted(budget.tokens)} tokens, without faults", format_seconds(budget.seconds), interval=between)
        )
        rows.append(Fact("energy of the whole run", f"{number(budget.joules / 3.6e9)} MWh"))
        if math.isfinite(budget.usd):
            rows.append(Fact("price of the whole run", money(budget.usd)))
    about = f"Costs come from {_PROVENANCE.get(step.provenance, step.provenance)}."
    if known:
        about += " Intervals hold four in five of the published steps that they were taken from."
    return section("What a step does", facts_html(rows).replace("<th>target</th>", "<th></th>"), about=about)


def _between(low: str, high: str, known: bool) -> str:
    return f"{low} to {high}" if known else ""


def _time(page: Page, step: StepTime) -> str:
    limit = limit_s(step)
    bound = ", then ".join(f"{what} ({percent(share)})" for what, share in binding(step)[:3])
    about = (
        f"Bound by {bound}. At the peak rate of {step.job.plan.compute_dtype}, with nothing else, the step would take "
        f"{format_seconds(limit)}: it is {step.seconds / limit:.1f} times that."
    )
    if any(step.binds):
        about += f" Offloading is bound by {', '.join(one for one in step.binds if one)}."
    several = len(step.ranks) > 1
    mean = "mean over the pipeline ranks" if several else ""
    climb = page.figure(ladder_chart(step), "From the hardware's limit to the step", mean, short=True)
    note = _of_all(len(step.ranks), "each adds up to the step; what a rank waits for is the bubble" if several else "")
    caption = "Time by pipeline rank" if several else "The parts of the step"
    ranks = _keyed(page, time_by_rank(step), caption, note, low=len(step.ranks) <= FEW_RANKS)
    return section("Where the time goes", climb, ranks, about=about)


def _keyed(page: Page, chart: Chart, caption: str, note: str = "", *, low: bool = False) -> str:
    """A figure with a key of its own above it, which wraps where there is little room."""
    marks = {one["name"]: one["marker"]["color"] if "marker" in one else one["fillcolor"]
             for one in chart["data"] if "name" in one}  # fmt: skip
    items = "".join(
        f'<li><i style="background:var({colour})"></i>{escape(name)}</li>' for name, colour in marks.items()
    )
    figure = page.figure(chart, caption, note, short=low)
    return figure.replace("</figcaption>", f'</figcaption><ul class="key">{items}</ul>', 1)


def _of_all(ranks: int, note: str = "") -> str:
    some = f"{MOST_RANKS} of {ranks} ranks" if ranks > MOST_RANKS else ""
    return "; ".join(part for part in (note, some) if part)


def _memory(page: Page, stacks: tuple[MemoryStack, ...], fullest: MemoryStack) -> str:
    several = len(stacks) > 1
    note = _of_all(len(stacks), "dashed: the accelerator's memory")
    caption = "Memory by pipeline rank" if several else "Memory"
    chart = _keyed(page, memory_by_rank(stacks), caption, note, low=len(stacks) <= FEW_RANKS)
    rows = "".join(
        f'<tr><td>{escape(row.name)}</td><td class="n">{row.bytes / 1e9:,.2f} GB</td><td>{escape(row.how)}</td></tr>'
        for row in fullest.rows()
        if row.bytes >= 5e6
    )
    used = fullest.total_bytes / fullest.device_bytes
    rows += (
        f'<tr class="pick"><td>total</td><td class="n">{fullest.total_bytes / 1e9:,.2f} GB</td>'
        f"<td>{used:.0%} of {fullest.device_bytes / 1e9:,.1f} GB</td></tr>"
    )
    head = '<tr><th>part</th><th class="n">size</th><th>what it is</th></tr>'
    table = f'<div class="scroll"><table class="facts"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    about = f"The peak is at this moment of the step: {fullest.moment}."
    if several:
        about = f"Fullest is pipeline rank {fullest.stage} ({fullest.layers} layers); its peak: {fullest.moment}."
    return section("Where the memory goes", chart, table, about=about)


def _timeline(page: Page, step: StepTime) -> str:
    """The pipeline drawn; a step without stages has nothing to draw."""
    if len(step.ranks) < 2:
        return ""
    parts = windows(step)
    note = _of_all(len(step.ranks), "drag to zoom, double-click to go back")
    low = len(step.ranks) <= FEW_RANKS
    drawn = [_keyed(page, timeline_chart(step, window), window.title, note, low=low) for window in parts]
    names = {"1f1b": "1F1B", "gpipe": "GPipe", "dualpipe": "DualPipe"}
    schedule = names.get(step.job.plan.pipeline_schedule, step.job.plan.pipeline_schedule)
    about = (
        f"{schedule[0].upper()}{schedule[1:]} schedule, {step.job.microbatches:,} microbatches per step. "
        f"Gaps are the bubble: {percent(step.parts['bubble'] / step.seconds)} of the ranks' time."
    )
    if len(parts) > 1:
        about += " The middle of the step repeats what its ends begin and finish."
    return section("The pipeline", *drawn, about=about)


def _launch(best: Candidate) -> str:
    parts = [_command(launch) for launch in launch_commands(best.job)]
    return section("How to launch it", *parts)


def _command(launch: TrainingLaunch) -> str:
    """One engine's files and command, each with a button that copies it, or why there is none."""
    if launch.refusals:
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in launch.refusals)
        return f"<h3>{escape(launch.engine)}</h3><p>It cannot run this layout:</p><ul>{reasons}</ul>"
    blocks = [(name, content.rstrip()) for name, content in launch.files] + [("", launch.text(72))]
    parts = []
    for i, (name, content) in enumerate(blocks):
        title = escape(launch.engine if i == 0 else "Command") + (f": {escape(name)}" if name else "")
        parts.append(
            f'<div class="command"><h3>{title} <button class="copy" type="button">Copy</button></h3>'
            f"<pre>{escape(content)}</pre></div>"
        )
    return "".join(parts) + notes_html(launch.notes)


def _nearest(page: Page, answer: TrainingAnswer) -> str:
    if answer.nearest is None:
        return ""
    return _memory(page, (answer.nearest,), answer.nearest)


def _candidates(page: Page, answer: TrainingAnswer) -> str:
    if len(answer.candidates) < 2:
        return ""
    chart = page.figure(
        candidates_chart(answer), "Time, memory and price",
        "left is faster, lower leaves more memory, a smaller mark is cheaper per token; solid marks are beaten by no "
        "other in time, memory, price and energy at once",
    )  # fmt: skip
    names = ("", "layout", "step", "MFU", "memory", "$/M tokens", "J/token", "why")
    head = "".join(
        f'<th{" class=n" if 1 < i < 7 else ""}><button type="button">{escape(name or "#")}</button></th>'
        for i, name in enumerate(names)
    )
    edge = set(answer.frontier)
    rows = "".join(_row(i, one, i in edge, answer) for i, one in enumerate(answer.candidates))
    tools = (
        '<div class="tools"><input id="filter" type="search" placeholder="Filter: tp8 zero1" aria-label="Filter">'
        '<select id="outcome" aria-label="Which"><option value="">every layout</option>'
        '<option value="front">beaten by no other</option></select>'
        '<span class="count" id="count" aria-live="polite"></span></div>'
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    body = f'<div class="scroll"><table class="cards" id="candidates">{table}</table></div>'
    more = '<div class="tools"><button id="more" type="button">Show all</button></div>'
    return section("The best layouts, and why they lose", chart, tools, body, more)


def _row(index: int, one: Candidate, front: bool, answer: TrainingAnswer) -> str:
    clusters = len({(c.job.gpus, c.job.accelerator.name) for c in answer.candidates}) > 1
    label = f"{one.job.gpus:,} x {one.job.accelerator.name}, {one.label}" if clusters else one.label
    figures = (
        ("step", one.step.seconds, format_seconds(one.step.seconds)),
        ("MFU", one.step.mfu, percent(one.step.mfu)),
        ("memory", one.memory.total_bytes, f"{one.memory.total_bytes / 1e9:,.0f} GB"),
        ("$/M tokens", one.usd_per_million_tokens, format_usd(one.usd_per_million_tokens)),
        ("J/token", one.joules_per_token, number(one.joules_per_token)),
    )
    cells = [f'<td data-value="{index + 1}">{index + 1}</td><td class="wide title">{escape(label)}</td>']
    for name, value, text in figures:
        known = math.isfinite(value)
        sortable = f"{value:.6g}" if known else ""
        cells.append(f'<td class="n" data-label="{name}" data-value="{sortable}">{escape(text) if known else ""}</td>')
    cells.append(f'<td class="why wide">{escape(one.why)}</td>')
    mark = ' class="pick"' if answer.best is not None and one.job == answer.best.job else ""
    return f'<tr data-outcome="{"front" if front else "beaten"}"{mark}>{"".join(cells)}</tr>'


def _rejected(answer: TrainingAnswer) -> str:
    if not answer.rejected:
        return ""
    rows = "".join(
        f'<tr><td class="n">{one.layouts:,}</td><td>{escape(one.reason)}</td>'
        f'<td class="why">{escape(one.example)}</td></tr>'
        for one in answer.rejected
    )
    head = '<tr><th class="n">layouts</th><th>why</th><th>the best of them</th></tr>'
    return section(
        "Rejected", f'<div class="scroll"><table class="facts"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    )


def _notes(answer: TrainingAnswer) -> list[str]:
    if answer.best is None:
        return []
    return [
        "Faults, checkpoints, stragglers, data loading and validation are not in these figures.",
        "Intervals are for the speed of a step; memory and energy have none yet.",
    ]


def _footer(answer: TrainingAnswer) -> str:
    if answer.given:
        return f"One layout, priced in {format_seconds(answer.elapsed_s)}. Made by Windtunnel."
    c = answer.counts
    return f"{c.valid:,} layouts, {c.fit:,} fit, {c.priced:,} played out, {answer.elapsed_s:.1f} s. Made by Windtunnel."
