"""A run beside its replay, as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.report.text import number, paragraph, table

TITLES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "end to end"}
STATISTICS = {"mean": "mean", "p50": "median", "p90": "90th percentile", "p99": "99th percentile"}


def run_report_text(answer: Mapping[str, Any], folder: str) -> str:
    """The answer of `windtunnel validate` on a run's folder.

    Args:
        answer: as `RunReport.as_dict()` gives it.
        folder: the run's.
    """
    what = f"{answer['model']} on {answer['accelerator']} ({answer['plan']}), {answer['engine']}"
    head = f"{folder}: {what}: {answer['requests']:,} requests replayed, kernels: {answer['kernels']}."
    rows = []
    for name, one in answer["metrics"].items():
        metric, statistic = name.removesuffix("_s").split("_")
        measured, predicted = number(one["measured"]), number(one["predicted"])
        rows.append((f"{TITLES[metric]}, {STATISTICS[statistic]}", measured, predicted, f"{one['error']:+.1%}"))
    parts = [paragraph(head), table(("seconds", "measured", "predicted", "error"), rows, "<>>>")]
    blocks = answer["kv_blocks"]
    known = f"{blocks['measured']:,} reported, " if blocks["measured"] else ""
    parts.append(f"KV cache: {known}{blocks['predicted']:,} blocks predicted")
    if answer["notes"]:
        parts.append("\n".join(["Notes", *(paragraph(note, 2, "- ") for note in answer["notes"])]))
    return "\n\n".join(parts)
