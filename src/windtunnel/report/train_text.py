"""The answer of `train` as text: the layout, where the time and memory go, what limits it, and why the others lose."""

from __future__ import annotations

import math

from windtunnel.report.text import WIDTH, number, paragraph, percent, table
from windtunnel.report.train_facts import binding, layout_sentence, limit_s, parts_of, seconds_interval
from windtunnel.report.train_launch import launch_commands, launch_text
from windtunnel.training.answer import Budget, Candidate, TrainingAnswer
from windtunnel.training.memory import MemoryStack
from windtunnel.units import format_seconds, format_si, format_usd

_PROVENANCE = {
    "measured": "kernels measured on this device",
    "calibrated": "kernels calibrated on this device",
    "datasheet": "the datasheet and the device family's constants (nobody has measured it)",
}
_GOALS = {"time": "the shortest step", "price": "the fewest dollars per token", "energy": "the least energy per token"}


def train_text(answer: TrainingAnswer, top: int = 5, *, launch: bool = False) -> str:
    """The whole answer.

    Args:
        answer: what was found.
        top: how many runners-up to list.
        launch: say how to start the best layout with each engine.
    """
    parts = [headline(answer)]
    if answer.best is not None:
        best = answer.best
        parts += [_layout(best), _time(best), stack_text(best.memory), _figures(best), _budget(answer.budget)]
    else:
        parts.append(_nearest(answer))
    parts += [_runners_up(answer, top), _rejected(answer)]
    if launch and answer.best is not None:
        parts += [launch_text(one) for one in launch_commands(answer.best.job)]
    parts += [_notes(answer), _effort(answer)]
    return "\n\n".join(part for part in parts if part)


def headline(answer: TrainingAnswer) -> str:
    """The answer in a few sentences."""
    best = answer.best
    if best is None:
        return paragraph(f"No layout of {answer.asked} fits. {_smallest(answer)}")
    job, step = best.job, best.step
    where = f"{job.gpus:,} x {job.accelerator.name}"
    if not best.memory.fits:
        text = f"This layout of {answer.asked} on {where} ({best.label}) {best.memory.reason()}."
        return paragraph(f"{text} If it fitted, a step would take {format_seconds(step.seconds)}.")
    verb = f"{best.label} on {where} trains {answer.asked}" if answer.given else _train(answer.asked, where, best)
    low, high = seconds_interval(step)
    took = format_seconds(step.seconds)
    if math.isfinite(low):
        took += f" (80 % interval {format_seconds(low)} to {format_seconds(high)})"
    rate = f"{number(step.tokens_per_s_per_gpu)} tokens/s per accelerator"
    goal = "" if answer.given else f" That is {_GOALS[answer.objective]} of {answer.counts.fit:,} layouts that fit."
    return paragraph(f"{verb}: a step takes {took}, {rate}, MFU {percent(step.mfu)}.{goal}")


def _train(asked: str, where: str, best: Candidate) -> str:
    return f"Train {asked} on {where} as {best.label}"


def _smallest(answer: TrainingAnswer) -> str:
    found = answer.smallest
    if found is None:
        return "No cluster of up to 65,536 accelerators of this kind would hold it."
    size = f"{found.gpus:,} accelerator" + ("s" if found.gpus > 1 else "")
    return f"The smallest cluster that would hold it has {size}, as {found.plan.label()}."


def _nearest(answer: TrainingAnswer) -> str:
    if answer.nearest is None:
        return ""
    return "Closest here is the layout that takes least memory.\n" + stack_text(answer.nearest)


def _layout(best: Candidate) -> str:
    job = best.job
    batch = f"{job.global_batch_sequences:,} sequences of {job.seq_len:,} tokens a step ({counted(job.tokens)} tokens)"
    return f"Layout\n{paragraph(layout_sentence(best), 2)}\n{paragraph(batch, 2)}"


def _time(best: Candidate) -> str:
    step = best.step
    rows = [(part.said, format_seconds(part.seconds), percent(part.share)) for part in parts_of(step)]
    rows.append(("step", format_seconds(step.seconds), "100%"))
    bound = binding(step)
    said = ", then ".join(f"{what} ({percent(share)})" for what, share in bound[:3])
    limit = limit_s(step)
    peak = (
        f"At the peak rate of {best.job.plan.compute_dtype} and nothing else it would take {format_seconds(limit)}: "
        f"the step is {step.seconds / limit:.1f} times that."
    )
    lines = [
        "Where the time goes" + (f" (mean over {len(step.ranks)} pipeline ranks)" if len(step.ranks) > 1 else ""),
        table(("", "", ""), rows, "<>>", 2),
    ]
    lines.append(paragraph(f"Bound by {said}. {peak}", 2))
    if step.binds and any(step.binds):
        lines.append(paragraph(f"Offloading binds by {', '.join(b for b in step.binds if b)}.", 2))
    return "\n".join(lines)


def stack_text(stack: MemoryStack) -> str:
    """Memory of the fullest rank, part by part."""
    rows = [(row.name, f"{row.bytes / 1e9:,.2f} GB", row.how) for row in stack.rows() if row.bytes >= 5e6]
    used = stack.total_bytes / stack.device_bytes
    rows.append(("total", f"{stack.total_bytes / 1e9:,.2f} GB", f"{used:.0%} of {stack.device_bytes / 1e9:,.1f} GB"))
    room = WIDTH - 6 - max(len(name) for name, _, _ in rows) - max(len(size) for _, size, _ in rows)
    rows = [(name, size, _cut(how, room)) for name, size, how in rows]
    where = f"pipeline rank {stack.stage} ({stack.layers} layers), {stack.moment}"
    return f"Memory at its peak: {where}\n{table(('', '', ''), rows, '<><', 2)}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 0)].rstrip() + "..."


def _figures(best: Candidate) -> str:
    step, job = best.step, best.job
    watts = step.joules / step.seconds / job.gpus
    rows = [
        ("MFU, HFU", f"{percent(step.mfu)}, {percent(step.hfu)} (recomputation counted as work)"),
        ("Rate", f"{number(step.tokens_per_s_per_gpu * job.gpus)} tokens/s, "
                 f"{format_si(step.model_flops_per_s_per_gpu, 'FLOP/s')} per accelerator"),
        ("Energy", f"{number(best.joules_per_token)} J per token, {format_si(step.joules, 'J')} a step, "
                   f"{number(watts)} W per accelerator with its share of the server"),
    ]  # fmt: skip
    if math.isfinite(best.usd_per_h):
        rows.append(
            ("Price", f"{format_usd(best.usd_per_million_tokens)} per million tokens, "
                      f"{format_usd(best.usd_per_h * job.gpus)} per hour ({format_usd(best.usd_per_h)} an accelerator)")
        )  # fmt: skip
    rows.append(("Costs", f"from {_PROVENANCE.get(step.provenance, step.provenance)}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(paragraph(text, 0, f"{name:{width}}  ") for name, text in rows)


def _budget(budget: Budget | None) -> str:
    if budget is None:
        return ""
    text = (
        f"{counted(budget.tokens)} tokens take {number(budget.steps)} steps in {format_seconds(budget.seconds)} "
        f"without faults, {number(budget.joules / 3.6e9)} MWh"
    )
    if math.isfinite(budget.usd):
        text += f" and {money(budget.usd)}"
    return paragraph(text + ".")


def counted(value: float) -> str:
    """A large count as a person writes it.

    >>> counted(15e12), counted(16_777_216)
    ('15T', '16.8M')
    """
    return format_si(value, "").replace(" ", "").replace("G", "B")


def money(usd: float) -> str:
    """US dollars, millions from a million on.

    >>> money(66_836_773.89)
    '$66.8 million'
    """
    return f"${usd / 1e6:,.1f} million" if usd >= 1e6 else format_usd(usd)


def _runners_up(answer: TrainingAnswer, top: int) -> str:
    others = runners_up(answer, top)
    if not others:
        return ""
    several = len({(c.job.accelerator.name, c.job.gpus) for c in answer.candidates}) > 1
    lines = ["Runners-up"]
    for one in others:
        where = f"{one.job.gpus:,} x {one.job.accelerator.name} " if several else ""
        figures = (
            f"{format_seconds(one.step.seconds)}, MFU {percent(one.step.mfu)}, {one.memory.total_bytes / 1e9:,.0f} GB"
        )
        lines.append(paragraph(f"{where}{one.label}: {figures}", 2, "- "))
        lines.append(paragraph(one.why, 4))
    return "\n".join(lines)


def runners_up(answer: TrainingAnswer, top: int) -> list[Candidate]:
    """The next best candidates, first those that differ in more than microbatch, virtual stages and CP."""
    seen = {_shape(answer.best)} if answer.best is not None else set()
    varied: list[int] = []
    rest: list[int] = []
    for i, candidate in enumerate(answer.candidates[1:], start=1):
        shape = _shape(candidate)
        (rest if shape in seen else varied).append(i)
        seen.add(shape)
    return [answer.candidates[i] for i in sorted([*varied, *rest][:top])]


def _shape(candidate: Candidate) -> tuple[object, ...]:
    plan = candidate.job.plan
    return (
        candidate.job.gpus,
        candidate.job.accelerator.name,
        plan.tensor_parallel,
        plan.pipeline_parallel,
        plan.expert_parallel,
        plan.zero_stage,
        plan.recompute,
        plan.compute_dtype,
    )


def _rejected(answer: TrainingAnswer) -> str:
    if not answer.rejected:
        return ""
    lines = ["Rejected"]
    for one in answer.rejected:
        text = f"{one.layouts:,}: {one.reason}" + (f"; {one.example}" if one.example else "")
        lines.append(paragraph(text, 2, "- "))
    return "\n".join(lines)


def _notes(answer: TrainingAnswer) -> str:
    if not answer.notes:
        return ""
    return "\n".join(["Notes", *(paragraph(note, 2, "- ") for note in answer.notes)])


def _effort(answer: TrainingAnswer) -> str:
    if answer.given:
        return f"priced in {format_seconds(answer.elapsed_s)}"
    c = answer.counts
    return f"{c.valid:,} layouts, {c.fit:,} fit, {c.priced:,} played out, {answer.elapsed_s:.1f} s"
