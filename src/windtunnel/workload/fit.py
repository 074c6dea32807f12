"""A synthetic workload that resembles a trace: quantiles, rank correlation, rate over time and burstiness."""

from __future__ import annotations

from typing import Any

import numpy as np

from windtunnel.specs.workload import Arrivals, FixedLength, Length, QuantileLength, WorkloadSpec
from windtunnel.workload.arrivals import to_profile_time
from windtunnel.workload.summary import gap_cv, rank_correlation
from windtunnel.workload.table import Floats, Ints, RequestTable

LEVELS: tuple[float, ...] = (
    *(0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.04),
    *(round(level, 3) for level in np.arange(0.05, 0.9501, 0.025)),
    *(0.96, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0),
)
"""Levels of the quantiles kept: close in the middle, with both tails to the extremes."""


def fit_workload(table: RequestTable, name: str, interval_s: float = 60.0, **fields: Any) -> WorkloadSpec:
    """A workload spec with a trace's length quantiles, their correlation, and its arrivals over time.

    What is not kept: the order of lengths in time, shared prefixes and sessions.

    Args:
        table: the trace, at least three requests that do not all arrive at once.
        name: of the new workload.
        interval_s: the rate is kept interval by interval of this length; gaps relative to it
            become gamma. A trace shorter than ten intervals keeps only its mean rate.
        fields: further fields of `WorkloadSpec`, such as `sources`.
    """
    return WorkloadSpec(
        name=name,
        requests=fields.pop("requests", len(table)),
        arrivals=_arrivals(table.arrival_s, interval_s),
        prompt=_quantiles(table.prompt_tokens),
        output=_quantiles(table.output_tokens),
        correlation=round(rank_correlation(table.prompt_tokens, table.output_tokens), 3),
        **fields,
    )


def _arrivals(arrival_s: Floats, interval_s: float) -> Arrivals:
    since_s = arrival_s - arrival_s[0]
    intervals = int(since_s[-1] // interval_s) + 1
    if intervals < 10:
        rate_per_s = (len(since_s) - 1) / float(since_s[-1])
        return Arrivals(kind="gamma", rate_per_s=_rounded(rate_per_s), cv=_rounded(gap_cv(since_s)))
    counts = np.bincount((since_s // interval_s).astype(np.int64), minlength=intervals)
    profile = Arrivals(
        kind="profile",
        rate_per_s=_rounded(len(since_s) / (intervals * interval_s)),
        profile=tuple(counts.tolist()),
        interval_s=interval_s,
    )
    return profile.model_copy(update={"cv": _rounded(gap_cv(to_profile_time(since_s, profile)))})


def _quantiles(tokens: Ints) -> Length:
    if tokens.min() == tokens.max():
        return FixedLength(tokens=int(tokens[0]))
    return QuantileLength(
        levels=LEVELS, tokens=tuple(round(value, 1) for value in np.quantile(tokens, LEVELS).tolist())
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
