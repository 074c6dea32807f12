"""Confidence intervals for statistics of one simulation: sampling noise only, by batch means.

Successive requests are correlated, so the run is cut into batches long enough to be nearly independent, the
statistic is taken in each, and Student's t gives the interval. Errors of the cost model are not in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.metrics.latency import statistic


def batch_interval(
    values: npt.NDArray[np.float64], name: str = "mean", batches: int = 20, confidence: float = 0.95
) -> tuple[float, float]:
    """(low, high) of a statistic of a correlated series; nan when the series is too short or has no end.

    Args:
        values: one value per request, in order of arrival.
        name: a statistic such as `mean` or `p99`.
        batches: how many batches to cut.
        confidence: two-sided level.
    """
    size = len(values) // batches
    if size < 5 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    from scipy.stats import t

    means = np.array([statistic(values[i * size : (i + 1) * size], name) for i in range(batches)])
    half = t.ppf(0.5 + confidence / 2.0, batches - 1) * means.std(ddof=1) / np.sqrt(batches)
    centre = statistic(values, name)
    return float(centre - half), float(centre + half)
