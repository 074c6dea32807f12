"""Lay a prediction beside a measurement of the same requests, and say where the gap comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from windtunnel.live.drift import Drift, at_speed, bound_shares, drift_of
from windtunnel.live.measurement import Floats, Measurement
from windtunnel.live.reasons import Reason, reasons_for
from windtunnel.live.replay import Replayed, replay, replay_ends
from windtunnel.live.steadiness import steadiness, steadiness_note
from windtunnel.metrics.latency import statistic
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import METRICS

SHOWN = ("mean", "p50", "p90", "p99")
NOTED = ("ttft_p50_s", "tpot_p50_s", "e2e_p50_s", "output_tokens_per_s")
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
        as_profiled: the prediction at the speed that the machine had when it was profiled, where that is known and
            another; nan otherwise.
    """

    name: str
    measured: float
    low: float
    high: float
    predicted: float
    predicted_low: float = float("nan")
    predicted_high: float = float("nan")
    as_profiled: float = float("nan")

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
        drift: the machine's speed relative to when it was profiled, at which everything is priced; None where nobody
            measured it.
    """

    measured: Measurement
    predicted: Replayed
    figures: tuple[Figure, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    drift: Drift | None = None

    def figure(self, name: str) -> Figure:
        """One figure by name."""
        return next(figure for figure in self.figures if figure.name == name)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        rows = {
            one.name: {
                "measured": one.measured, "measured_low": one.low, "measured_high": one.high,
                "predicted": one.predicted, "predicted_low": one.predicted_low, "predicted_high": one.predicted_high,
                "error": one.error, "as_profiled": one.as_profiled,
            }
            for one in self.figures
        }  # fmt: skip
        reasons = [
            {"what": one.what, "seconds": one.seconds, "share": one.share, "why": one.why} for one in self.reasons
        ]
        drift = self.drift.as_dict() if self.drift is not None else None
        found = {"requests": len(self.predicted.rows), "metrics": rows, "reasons": reasons, "notes": list(self.notes)}
        return {**found, "drift": drift}


def compare_deployment(measured: Measurement, deployment: DeploymentSpec) -> Comparison:
    """The measurement beside what the deployment does with its requests.

    Where the profile and the measurement both know how fast the machine was, the prediction is priced at the speed of
    the measurement, and the figures at that of the profile stand beside. Where token times show the engine's steps,
    they tell whether something disturbed the machine meanwhile.
    """
    drift, why = drift_of(deployment, measured)
    moved = deployment
    if drift is not None and drift.any:
        moved = at_speed(deployment, drift, bound_shares(deployment, measured))
    found = compare(measured, replay(moved, measured))
    notes = [why] if why else []
    figures = found.figures
    if drift is not None:
        before = replay(deployment, measured) if moved is not deployment else found.predicted
        if moved is not deployment:
            figures = tuple(replace(one, as_profiled=_value(one.name, measured, before)) for one in figures)
        notes.append(drift_note(drift, {one.name: one for one in figures}))
    steady = steadiness(measured, moved)
    if steady is not None:
        notes.append(steadiness_note(steady, measured, found.predicted))
    return replace(found, figures=figures, notes=(*notes, *found.notes), drift=drift)


def drift_note(drift: Drift, figures: Mapping[str, Figure]) -> str:
    """How fast the machine was, and what the errors are without taking that into account."""
    if not drift.any:
        return "the machine was as fast as when it was profiled, as far as its reference measurements differ"
    said = f"products at {drift.product:.0%}, reads at {drift.read:.0%} and Python at {drift.host:.0%}"
    errors = [
        f"{name.replace('_p50_s', '_p50')} {one.as_profiled / one.measured - 1.0:+.1%}"
        for name, one in figures.items()
        if name in NOTED and one.measured
    ]
    return (
        f"the machine ran {said} of the speed at which it was profiled, and the prediction is priced so; at the "
        f"profile's speed the errors are {', '.join(errors)}"
    )


def _value(name: str, measured: Measurement, predicted: Replayed) -> float:
    """A figure of a prediction, by its name."""
    if name == "output_tokens_per_s":
        return _rate(measured, predicted)
    metric, wanted, _ = name.split("_")
    observed, expected = measured.latency_s(metric)[predicted.rows], predicted.latency_s(metric)
    return statistic(expected[np.isfinite(observed) & np.isfinite(expected)], wanted)


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
    expected, *leaning = (_rate(measured, one) for one in (predicted, *ends))
    # Tokens completed in ten equal spans scatter as the rate does.
    edges = np.linspace(due_s.min(), np.nanmax(ends_s), 11)
    rates = np.histogram(ends_s, edges, weights=tokens)[0] / (span_s / 10)
    spread = 1.2816 * float(rates.std(ddof=1)) / np.sqrt(len(rates))
    rate = float(tokens.sum()) / span_s
    return Figure("output_tokens_per_s", rate, rate - spread, rate + spread, expected, *_sorted(leaning))


def _rate(measured: Measurement, predicted: Replayed) -> float:
    """Output tokens per second of a prediction, from the first arrival to the last token."""
    tokens, due_s = measured.output_received[predicted.rows], measured.due_s[predicted.rows]
    return float(tokens.sum()) / float(np.nanmax(due_s + predicted.e2e_s) - due_s.min())


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
