"""The answer of `bench` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.report.text import number, paragraph, table
from windtunnel.units import format_seconds

_LATENCIES = (("ttft", "time to first token"), ("tpot", "time per output token"), ("e2e", "end to end"))
_SHOWN = ("mean", "p50", "p90", "p99")


def bench_text(found: Mapping[str, Any], folder: str) -> str:
    """What was measured, from `windtunnel.live.statistics.summary`."""
    share = f"{found['answered']:,} of {found['requests']:,} requests answered"
    head = f"{share} in {format_seconds(found['duration_s'])}."
    rows = [(title, *(_seconds(found["latency_s"][name][level]) for level in _SHOWN)) for name, title in _LATENCIES]
    rows.append(("between tokens", *(_seconds(found["gap_s"][level]) for level in _SHOWN)))
    latencies = table(("latency", *_SHOWN), rows, "<>>>>")
    names = (("request_throughput_per_s", "requests/s"), ("output_tokens_per_s", "output tokens/s"))
    shown = [f"{number(found[name])} {unit}" for name, unit in (*names, ("total_tokens_per_s", "tokens/s in all"))]
    parts = [paragraph(head), latencies, paragraph(", ".join(shown), first="Throughput  ")]
    if found["notes"]:
        parts.append("\n".join(["Notes", *(paragraph(note, 2, "- ") for note in found["notes"])]))
    parts.append(paragraph(f"Kept in {folder}; lay a prediction beside it with `windtunnel compare`."))
    return "\n\n".join(parts)


def _seconds(value: float) -> str:
    return format_seconds(value) if value == value else "-"
