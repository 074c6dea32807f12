"""The answer of `simulate` as text."""

from __future__ import annotations

import math

from windtunnel.report.facts import facts
from windtunnel.report.terminal import facts_table, traffic_sentence
from windtunnel.report.text import number, paragraph
from windtunnel.search.serve import Run
from windtunnel.units import format_usd


def run_text(run: Run) -> str:
    """What happened, the targets, cost and energy, and what to know."""
    parts = [paragraph(headline(run)), facts_table(facts(run.metrics, run.slo, run.ends)), _figures(run)]
    if run.notes:
        parts.append("\n".join(["Notes", *(paragraph(note, 2, "- ") for note in run.notes)]))
    return "\n\n".join(parts)


def headline(run: Run) -> str:
    """What ran, what came, and whether the targets hold."""
    text = f"{run.deployment.model.name} on {run.label}, {traffic_sentence(run.workload_name, run.workload)}."
    if run.slo.targets:
        missed = run.metrics.violations(run.slo)
        if run.metrics.meets(run.slo):
            text += " Every target holds."
        else:
            text += f" Missed: {', '.join(str(target) for target in missed) or 'not every request was served'}."
    if not run.metrics.kept_up:
        text += " Queues grow: it does not keep up with this traffic."
    return text


def _figures(run: Run) -> str:
    m = run.metrics
    cost = "-"
    if math.isfinite(run.usd_per_h):
        cost = f"{format_usd(run.usd_per_h)} per hour, {format_usd(run.usd_per_million_tokens)} per million tokens"
    energy = f"{number(m.joules_per_output_token)} J per output token, {number(m.mean_w)} W mean (accelerators)"
    kv = f"{run.memory.kv_blocks:,} blocks per replica, {run.memory.kv_tokens:,} tokens"
    rows = (("Cost", cost), ("Energy", energy), ("KV cache", kv))
    return "\n".join(paragraph(text, 0, f"{name:8}  ") for name, text in rows)
