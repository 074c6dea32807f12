"""The answers of `compare` and `fit` as text."""

from __future__ import annotations

from collections.abc import Sequence

from windtunnel.live.compare import Comparison, Figure
from windtunnel.live.fit import Fit
from windtunnel.live.repeats import Repeated
from windtunnel.report.text import number, paragraph, table
from windtunnel.units import format_seconds

NAMES = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "end to end"}


def compare_text(comparison: Comparison) -> str:
    """Figures side by side, the reasons for the gap, and what to know."""
    count = len(comparison.predicted.rows)
    rows = [
        (named(f), shown(f, f.measured), interval(f), shown(f, f.predicted), leaning(f), error(f))
        for f in comparison.figures
    ]
    parts = [
        paragraph(f"{count:,} requests, measured and predicted."),
        table(("figure", "measured", "its 80%", "predicted", "its 80%", "error"), rows, "<>>>>>"),
        reasons_text(comparison),
    ]
    if comparison.notes:
        parts.append("\n".join(["Notes", *(paragraph(note, 2, "- ") for note in comparison.notes)]))
    return "\n\n".join(parts)


def repeats_text(figures: Sequence[Repeated], comparison: Comparison, source: str) -> str:
    """Several runs of one load: noise and error of each figure, and the reasons that the middle run gives.

    Args:
        figures: of all runs.
        comparison: the middle run.
        source: what it is called.
    """
    count = len(comparison.predicted.rows)
    rows = [
        (
            named(f), shown(f, f.middle), f"{shown(f, min(f.measured))} to {shown(f, max(f.measured))}",
            share(f.left_open), shown(f, f.predicted),
            f"{shown(f, f.low)} to {shown(f, f.high)}" if f.low == f.low else "-", repeats_error(f),
        )
        for f in figures
    ]  # fmt: skip
    head = ("figure", "median run", "all runs", "left open", "predicted", "its 80%", "error")
    parts = [
        paragraph(
            f"{len(figures[0].measured)} runs of {count:,} requests, measured and predicted. The runs leave their "
            f"median open by so much to either side (80%); an error marked * is no larger."
        ),
        table(head, rows, "<>>>>>>"),
        f"Of the middle run, {source}:",
        reasons_text(comparison),
    ]
    if comparison.notes:
        parts.append("\n".join(["Notes", *(paragraph(note, 2, "- ") for note in comparison.notes)]))
    return "\n\n".join(parts)


def share(value: float) -> str:
    """`4.2%`, or a dash where it is not known."""
    return f"{value:.1%}" if value == value else "-"


def repeats_error(figure: Repeated) -> str:
    """The signed error, marked where it is no larger than what the runs leave open."""
    if figure.error != figure.error:
        return "-"
    return f"{figure.error:+.1%}" + ("*" if abs(figure.error) <= figure.left_open else " ")


def reasons_text(comparison: Comparison) -> str:
    """Where the gap comes from, one line each."""
    if not comparison.reasons:
        return "No part of the gap is above 0.5% of the end-to-end time."
    lines = ["Where the gap comes from (share of the measured end-to-end time)"]
    for reason in comparison.reasons:
        size = f"{reason.seconds / abs(reason.seconds) * reason.share:+.1%}" if reason.share == reason.share else ""
        lines.append(paragraph(reason.why, 2, f"{reason.what + ' ' + size:<28}".rstrip() + ": "))
    return "\n".join(lines)


def named(figure: Figure | Repeated) -> str:
    """`time to first token, p99`."""
    parts = figure.name.split("_")
    return f"{NAMES[parts[0]]}, {parts[1]}" if parts[0] in NAMES else "output tokens/s"


def shown(figure: Figure | Repeated, value: float) -> str:
    """A figure's value with its unit."""
    if value != value:
        return "-"
    return format_seconds(value) if figure.name.endswith("_s") and "tokens" not in figure.name else number(value)


def interval(figure: Figure) -> str:
    """`1.2 ms to 1.4 ms`."""
    if figure.low != figure.low:
        return "-"
    return f"{shown(figure, figure.low)} to {shown(figure, figure.high)}"


def leaning(figure: Figure) -> str:
    """The prediction's interval."""
    if figure.predicted_low != figure.predicted_low:
        return "-"
    return f"{shown(figure, figure.predicted_low)} to {shown(figure, figure.predicted_high)}"


def error(figure: Figure) -> str:
    """The signed error, marked where it lies within the measurement's own scatter."""
    if figure.error != figure.error:
        return "-"
    return f"{figure.error:+.1%}" + ("*" if figure.within_noise else " ")


def fit_text(fit: Fit, out: str) -> str:
    """What was fitted, and what it improved on the held-out half."""
    rows = [
        (half, f"{fit.requests[half]:,}", f"{fit.error_before[half]:.1%}", f"{fit.error_after[half]:.1%}")
        for half in ("fitted", "held out")
    ]
    fields = [
        (name, format_seconds(value) if name.endswith("_s") else number(value)) for name, value in fit.fields.items()
    ]
    verdict = "better" if fit.improved else "no better"
    return "\n\n".join(
        [
            paragraph(f"The held-out half is predicted {verdict} than before. The engine is in {out}."),
            table(("half", "requests", "error before", "error after"), rows, "<>>>"),
            table(("fitted", "value"), fields, "<>"),
        ]
    )
