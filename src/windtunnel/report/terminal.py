"""The answer of `plan` as text: the pick, what it does, what limits it, and why the others lost."""

from __future__ import annotations

import math
from collections import Counter

from windtunnel.report.facts import Fact, facts, target_facts
from windtunnel.report.launch import launches
from windtunnel.report.text import WIDTH, number, paragraph, table
from windtunnel.search.result import Candidate, PlanResult
from windtunnel.units import format_usd
from windtunnel.workload.summary import WorkloadSummary

_OUTCOMES = {
    "infeasible": "cannot run",
    "dominated": "cannot win",
    "misses": "miss the targets",
    "skipped": "not looked at",
}


def plan_text(result: PlanResult, top: int = 5) -> str:
    """The whole answer.

    Args:
        result: what the search found.
        top: how many runners-up to list.
    """
    chosen = result.pick or result.closest
    parts = [headline(result)]
    if chosen is not None:
        parts += [_doing(result, chosen), _figures(chosen, result)]
    parts += [_runners_up(result, top), _rejected(result)]
    if chosen is not None:
        parts.append(_launch(chosen, result))
    parts += [_notes(result), _effort(result)]
    return "\n\n".join(part for part in parts if part)


def headline(result: PlanResult) -> str:
    """The answer in one or two sentences."""
    rate = result.workload.rate_per_s
    traffic = f"{number(rate)} requests/s" if rate > 0 else "this traffic"
    if result.pick is not None:
        pick = result.pick
        text = f"Deploy {result.model} on {in_brackets(pick.label)} for {format_usd(pick.usd_per_h)} per hour."
        room = headroom(pick, rate)
        text += f" It holds every target at {traffic}"
        return paragraph(text + (f" and could take {room:.0%} more." if room >= 0.01 else ".")) + _cut_short(result)
    text = f"Nothing meets the targets ({result.slo}) at {traffic}."
    if result.closest is None:
        return paragraph(text + " No candidate can run at all.") + _cut_short(result)
    return paragraph(
        f"{text} Closest: {in_brackets(result.closest.label)}. {_sentence(result.closest.reason)}"
    ) + _cut_short(result)


def in_brackets(label: str) -> str:
    """`2 x l40s (TP2 x1 fp8)` from a label `2 x l40s: TP2 x1 fp8`."""
    hardware, _, layout = label.partition(": ")
    return f"{hardware} ({layout})"


def _cut_short(result: PlanResult) -> str:
    return "\n" + paragraph("The search was interrupted; this is the best found so far.") if result.interrupted else ""


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def headroom(candidate: Candidate, rate_per_s: float) -> float:
    """Capacity over the asked rate, less one; nan when either is unknown."""
    if not math.isfinite(candidate.capacity_per_s) or rate_per_s <= 0:
        return math.nan
    return candidate.capacity_per_s / rate_per_s - 1.0


def workload_sentence(result: PlanResult) -> str:
    """The traffic in a few words."""
    return traffic_sentence(result.workload_name, result.workload)


def traffic_sentence(name: str, load: WorkloadSummary) -> str:
    """A workload's name, size, rate and lengths."""
    return (
        f"{name}: {load.requests:,} requests, {number(load.rate_per_s)}/s, "
        f"mean {number(load.prompt_mean_tokens)} prompt and {number(load.output_mean_tokens)} output tokens"
    )


def facts_table(rows: list[Fact], indent: int = 0) -> str:
    """Facts with their interval and target."""
    cells = [(f.name, f.value, f.interval, f.target, f.verdict) for f in rows]
    if not any(f.target for f in rows):
        return table(("", "value", "80 % interval"), [row[:3] for row in cells], "<><", indent)
    return table(("", "value", "80 % interval", "target", ""), cells, "<><<<", indent)


def _doing(result: PlanResult, chosen: Candidate) -> str:
    rows = facts(chosen.metrics, result.slo, result.ends) if chosen.metrics is not None else []
    if not rows:
        return ""
    return f"At this traffic\n{paragraph(workload_sentence(result), 2)}\n\n{facts_table(rows, 2)}"


def _figures(chosen: Candidate, result: PlanResult) -> str:
    rate = result.workload.rate_per_s
    room = headroom(chosen, rate)
    rows = []
    if math.isfinite(room) and room < 0:
        rows.append(("Carries", f"{1 + room:.0%} of this traffic ({number(chosen.capacity_per_s)} requests/s)"))
    elif math.isfinite(room):
        rows.append(("Head-room", f"{room:.0%} (up to {number(chosen.capacity_per_s)} requests/s)"))
    if chosen.binding:
        rows.append(("Limited by", chosen.binding))
    cost = f"{format_usd(chosen.usd_per_h)} per hour" if math.isfinite(chosen.usd_per_h) else ""
    if math.isfinite(chosen.usd_per_million_tokens):
        cost += f", {format_usd(chosen.usd_per_million_tokens)} per million tokens (prompt and output)"
    rows.append(("Cost", cost or "-"))
    if math.isfinite(chosen.joules_per_output_token):
        rows.append(("Energy", f"{number(chosen.joules_per_output_token)} J per output token (accelerators)"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(paragraph(text, 0, f"{name:{width}}  ") for name, text in rows)


def runners_up(result: PlanResult, top: int) -> list[Candidate]:
    """The next best candidates: one per accelerator and count first, then the rest, in rank order."""
    chosen = result.pick or result.closest
    wanted = "meets" if result.pick is not None else "misses"
    others = [c for c in result.candidates if c is not chosen and c.outcome == wanted]
    if result.pick is None:
        others.sort(key=lambda c: c.metrics.tightness(result.slo) if c.metrics else math.inf)
    seen: set[tuple[str, int]] = set()
    varied: list[Candidate] = []
    rest: list[Candidate] = []
    for candidate in others:
        key = (candidate.deployment.accelerator.name, candidate.deployment.accelerators)
        (rest if key in seen else varied).append(candidate)
        seen.add(key)
    kept = [*varied, *rest][:top]
    return [candidate for candidate in others if any(candidate is k for k in kept)]


def _runners_up(result: PlanResult, top: int) -> str:
    others = runners_up(result, top)
    if not others:
        return ""
    title = "Runners-up" if result.pick is not None else "Also simulated"
    lines = [title]
    for candidate in others:
        figures = [f"{format_usd(candidate.usd_per_h)}/h"]
        if candidate.metrics is not None:
            figures += [f"{name} {value}" for name, value in target_facts(candidate.metrics, result.slo)]
        lines.append(paragraph(f"{candidate.label}: {', '.join(figures)}", 2, "- "))
        if candidate.reason:
            lines.append(paragraph(candidate.reason, 4))
    return "\n".join(lines)


def rejected(result: PlanResult) -> list[tuple[str, int, str]]:
    """(outcome, how many, an example) of the candidates that lost without being listed."""
    rows = []
    for outcome, said in _OUTCOMES.items():
        members = [c for c in result.candidates if c.outcome == outcome]
        if members and not (outcome == "misses" and result.pick is None):
            rows.append((said, len(members), _example(members)))
    return rows


def _example(members: list[Candidate]) -> str:
    """The most common kind of reason, shown by one candidate it holds for."""
    kinds = Counter(c.reason.split(":")[0].split("(")[0] for c in members if c.reason)
    if not kinds:
        return ""
    kind = kinds.most_common(1)[0][0]
    shown = next(c for c in members if c.reason.split(":")[0].split("(")[0] == kind)
    return f"{shown.label}: {shown.reason}"


def _rejected(result: PlanResult) -> str:
    rows = rejected(result)
    if not rows:
        return ""
    lines = ["Rejected"]
    for said, count, example in rows:
        lines.append(paragraph(f"{count} {said}" + (f", such as {example}" if example else ""), 2, "- "))
    return "\n".join(lines)


def _launch(chosen: Candidate, result: PlanResult) -> str:
    launch = launches(chosen.deployment, result.model)[0]
    lines = [f"Launch with {launch.engine}", "  " + launch.text(WIDTH - 2).replace("\n", "\n  ")]
    lines += [paragraph(note, 2, "- ") for note in launch.notes]
    return "\n".join(lines)


def _notes(result: PlanResult) -> str:
    if not result.notes:
        return ""
    return "\n".join(["Notes", *(paragraph(note, 2, "- ") for note in result.notes)])


def _effort(result: PlanResult) -> str:
    looked = len(result.candidates)
    return f"{looked:,} candidates, {result.simulations:,} simulations, {result.elapsed_s:.1f} s"
