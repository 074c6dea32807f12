"""Lay a prediction beside a measurement of the same requests, and say where the gap comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.live.measurement import Floats, Measurement
from windtunnel.live.reasons import Reason, reasons_for
from windtunnel.live.replay import Replayed, replay_ends
from windtunnel.metrics.latency import statistic
from windtunnel.specs.slo import METRICS

SHOWN = ("mean", "p50", "p90", "p99")
RESAMPLES = 400
LEVEL = 0.8
"""The measurement's own interval: of so many resampled blocks of requests, the middle 80 %."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, measured and predicted.

    Attributes:
        name: such as `ttft_p99_s` or `output_tokens_per_s`.
        measured: its value; low, high: 80 % interval of the measurement, from its own scatter.
        predicted: the prediction's value; predicted_low, predicted_high: its 80 % interval, with all costs at the
            ends of theirs; nan for a prediction that came as a table.
    """

    name: str
    measured: float
    low: float
    high: float
    predicted: float
    predicted_low: float = float("nan")
    predicted_high: float = float("nan")

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1.0 if self.measured else float("nan")

    @property
    def within_noise(self) -> bool:
        """Whether the prediction lies inside the measurement's interval."""
        return self.low <= self.predicted <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """Prediction beside measurement.

    Attributes:
        measured, predicted: both sides, request by request.
        figures: latencies and throughput by name.
        reasons: where the gap comes from, the largest first.
        notes: what limits the comparison.
    """

    measured: Measurement
    predicted: Replayed
    figures: tuple[Figure, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]

    def figure(self, name: str) -> Figure:
        """One figure by name."""
        return next(figure for figure in self.figures if figure.name == name)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        rows = {
            one.name: {
                "measured": one.measured, "measured_low": one.low, "measured_high": one.high,
                "predicted": one.predicted, "predicted_low": one.predicted_low, "predicted_high": one.predicted_high,
                "error": one.error,
            }
            for one in self.figures
        }  # fmt: skip
        reasons = [
            {"what": one.what, "seconds": one.seconds, "share": one.share, "why": one.why} for one in self.reasons
        ]
        return {"requests": len(self.predicted.rows), "metrics": rows, "reasons": reasons, "notes": list(self.notes)}


def compare(measured: Measurement, predicted: Replayed) -> Comparison:
    """The comparison of a measurement with the prediction of its requests."""
    ends = replay_ends(predicted, measured) or ()
    figures = []
    for metric in METRICS:
        observed, expected = measured.latency_s(metric)[predicted.rows], predicted.latency_s(metric)
        both = np.isfinite(observed) & np.isfinite(expected)
        for name in SHOWN:
            low, high = block_interval(observed[both], name)
            leaning = [statistic(end.latency_s(metric)[both], name) for end in ends]
            found = statistic(observed[both], name), low, high, statistic(expected[both], name)
            figures.append(Figure(f"{metric}_{name}_s", *found, *_sorted(leaning)))
    figures.append(_throughput(measured, predicted, ends))
    notes = [str(note) for note in measured.meta.get("notes", [])]
    failed = len(measured) - len(predicted.rows)
    if failed:
        notes.append(f"{failed:,} requests without an answer are left out; the load that they made is not simulated")
    if predicted.run is not None:
        notes += predicted.run.notes
    return Comparison(measured, predicted, tuple(figures), reasons_for(measured, predicted), tuple(notes))


def _sorted(ends: list[float]) -> tuple[float, float]:
    return (min(ends), max(ends)) if ends else (float("nan"), float("nan"))


def _throughput(measured: Measurement, predicted: Replayed, ends: tuple[Replayed, ...]) -> Figure:
    """Output tokens per second from the first arrival to the last token, with its interval."""
    rows = predicted.rows
    tokens, due_s = measured.output_received[rows], measured.due_s[rows]
    ends_s = measured.finish_s[rows]
    span_s = float(np.nanmax(ends_s) - due_s.min())
    expected, *leaning = (
        float(tokens.sum()) / float(np.nanmax(due_s + one.e2e_s) - due_s.min()) for one in (predicted, *ends)
    )
    # Tokens completed in ten equal spans scatter as the rate does.
    edges = np.linspace(due_s.min(), np.nanmax(ends_s), 11)
    rates = np.histogram(ends_s, edges, weights=tokens)[0] / (span_s / 10)
    spread = 1.2816 * float(rates.std(ddof=1)) / np.sqrt(len(rates))
    rate = float(tokens.sum()) / span_s
    return Figure("output_tokens_per_s", rate, rate - spread, rate + spread, expected, *_sorted(leaning))


def block_interval(values: Floats, name: str, seed: int = 0) -> tuple[float, float]:
    """80 % interval of a statistic by the moving-block bootstrap: neighbours in time share their queue.

    Blocks of n**(1/3) requests (Hall, Horowitz and Jing, Biometrika 1995).
    """
    n = len(values)
    if n < 8:
        return float("nan"), float("nan")
    size = max(2, round(n ** (1 / 3)))
    starts = np.random.default_rng(seed).integers(0, n - size + 1, (RESAMPLES, -(-n // size)))
    places = (starts[:, :, None] + np.arange(size)).reshape(RESAMPLES, -1)[:, :n]
    drawn = values[places]
    found = drawn.mean(axis=1) if name == "mean" else np.quantile(drawn, float(name[1:]) / 100, axis=1)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
