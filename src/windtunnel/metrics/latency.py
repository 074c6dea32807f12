"""Latency: TTFT, TPOT and end-to-end time per request, and their statistics.

TTFT is first token less arrival; TPOT is (finish - first token) / (output tokens - 1), as serving
benchmarks define it, and undefined for outputs of one token; E2E is finish less arrival. A request that
never finished counts as infinitely late in every percentile, so that an overloaded system cannot look good.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.serving.result import Simulation
from windtunnel.specs.slo import METRICS, STATISTICS

Floats = npt.NDArray[np.float64]


def request_latency_s(simulation: Simulation, metric: str) -> Floats:
    """A latency per request that counts, in seconds; infinite for a request that did not get there.

    Rejected requests are left out (they are reported beside), and so are outputs of one token for TPOT.
    """
    values = {"ttft": simulation.ttft_s, "tpot": simulation.tpot_s, "e2e": simulation.e2e_s}[metric]
    counted = ~simulation.rejected
    if metric == "tpot":
        counted &= simulation.workload.output_tokens > 1
    return np.where(np.isfinite(values), values, np.inf)[counted]


def statistic(values: Floats, name: str) -> float:
    """`mean`, or a percentile such as `p99`; nan of nothing, infinite where the tail is.

    >>> statistic(np.array([1.0, 2.0, 3.0]), "p50")
    2.0
    """
    if len(values) == 0:
        return float("nan")
    if name == "mean":
        return float(values.mean())
    level = float(name[1:]) / 100.0
    if np.isinf(values).any():
        return float(np.quantile(values, level, method="higher"))
    return float(np.quantile(values, level))


def latency_statistics(simulation: Simulation) -> dict[str, dict[str, float]]:
    """Every statistic of every latency, `result["ttft"]["p99"]` in seconds."""
    found = {}
    for metric in METRICS:
        values = request_latency_s(simulation, metric)
        # Quantiles of sorted values are found much faster, and there are many of them.
        values.sort()
        found[metric] = {name: statistic(values, name) for name in STATISTICS}
    return found


def cdf_points(values: Floats, points: int = 200) -> tuple[Floats, Floats]:
    """(values, shares) of the distribution function at evenly spaced shares, for drawing."""
    finite = np.sort(values[np.isfinite(values)])
    if len(finite) == 0:
        return np.zeros(0), np.zeros(0)
    shares = np.linspace(0.0, 1.0, min(points, len(finite)))
    return np.quantile(finite, shares), shares * len(finite) / len(values)
