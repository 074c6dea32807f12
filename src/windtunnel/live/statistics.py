"""Figures of a measurement, named as those of a simulation so that both can be laid side by side."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from windtunnel.live.measurement import Floats, Measurement
from windtunnel.metrics.latency import statistic
from windtunnel.specs.slo import METRICS, STATISTICS


def latency_of(measured: Measurement) -> dict[str, dict[str, float]]:
    """Every statistic of every latency over the requests that were answered, seconds."""
    found = {}
    for metric in METRICS:
        values = measured.latency_s(metric)
        found[metric] = {name: statistic(values[np.isfinite(values)], name) for name in STATISTICS}
    return found


def gaps_s(measured: Measurement) -> Floats:
    """Inter-token latency: every gap between two tokens of one request, all requests together."""
    request = np.repeat(np.arange(len(measured)), np.diff(measured.token_offset))
    gaps: Floats = np.diff(measured.token_s)[request[1:] == request[:-1]]
    return gaps


def summary(measured: Measurement) -> dict[str, Any]:
    """Plain figures for a table and for JSON."""
    ok = measured.ok
    duration_s = max(measured.duration_s, 1e-9)
    output = int(measured.output_received[ok].sum())
    prompt = np.where(measured.prompt_reported >= 0, measured.prompt_reported, measured.prompt_tokens)
    lag_s = measured.lag_s[np.isfinite(measured.lag_s)]
    gaps = gaps_s(measured)
    return {
        "requests": len(measured),
        "answered": int(ok.sum()),
        "failed": dict(Counter(status for status in measured.status if status != "ok")),
        "duration_s": measured.duration_s,
        "request_throughput_per_s": float(ok.sum()) / duration_s,
        "output_tokens_per_s": output / duration_s,
        "total_tokens_per_s": (output + int(prompt[ok].sum())) / duration_s,
        "latency_s": latency_of(measured),
        "gap_s": {name: statistic(gaps, name) for name in STATISTICS},
        "client_lag_p99_s": statistic(lag_s, "p99"),
        "notes": list(measured.meta.get("notes", [])),
    }
