"""What the targets force a deployment to have done by when: the least work behind a promise.

A percentile target lets a fixed number of requests be late. All the others must be served within their limit, so
that when the last request has come and its limit has passed, the work of at least so many requests has been
done, whichever they are. The cheapest so many are the least that it can be. No schedule and no router
changes that, hence a deployment whose replicas cannot do this work in this time cannot hold the targets.

A mean below a limit L leaves at most a tenth of the requests beyond 10 L (Markov's inequality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.specs.slo import SloSpec, Target
from windtunnel.workload.table import AT_ARRIVAL, Ints, RequestTable

MARKOV = 10.0
"""A mean bounds the share beyond this many times its limit by the inverse."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Work that must be done within a time.

    Attributes:
        prompt_tokens: the shortest prompts, as many as requests must be served, ascending.
        output_tokens: the shortest outputs, likewise; 1 each when only the first token is promised.
        horizon_s: from the first arrival to the last moment by which it must be done.
    """

    prompt_tokens: Ints
    output_tokens: Ints
    horizon_s: float

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def rate_per_s(self) -> float:
        """Requests per second that must be served on average."""
        return len(self) / self.horizon_s


def allowed_beyond(target: Target, requests: int) -> int:
    """How many of so many requests may be beyond a target's limit at most, while the target holds.

    The quantile at level p of n values lies at rank p (n - 1), interpolated: when more than
    (1 - p)(n - 1) + 1 values are at or beyond the limit, both neighbours of that rank are. For a mean, see
    `Limit`.
    """
    if target.statistic == "mean":
        return math.floor(requests / MARKOV) + 1
    return math.ceil((1.0 - float(target.statistic[1:]) / 100.0) * (requests - 1) - 1e-9) + 1


def allowed_unmet(slo: SloSpec, requests: int) -> int:
    """How many requests may miss one of the limits while the attainment holds."""
    return math.floor((1.0 - slo.attainment) * requests + 1e-9)


def limit_s(target: Target) -> float:
    """The limit beyond which `allowed_beyond` requests may be."""
    return target.limit_s * (MARKOV if target.statistic == "mean" else 1.0)


def demands(workload: RequestTable, slo: SloSpec) -> tuple[Demand, ...]:
    """The work that the targets force; none for arrivals that depend on the answers (sessions, closed loops)."""
    if (workload.after != AT_ARRIVAL).any() or not len(workload):
        return ()
    found = []
    finished = _finished_by(workload, slo)
    if finished is not None:
        found.append(_demand(workload, *finished, whole=True))
    for target in slo.targets:
        if target.metric == "ttft":
            late = allowed_unmet(slo, len(workload)) if slo.attainment else allowed_beyond(target, len(workload))
            found.append(_demand(workload, late, limit_s(target), whole=False))
    return tuple(one for one in found if len(one))


def _finished_by(workload: RequestTable, slo: SloSpec) -> tuple[int, float] | None:
    """(how many requests may be late, within what time of their arrival the others finish)."""
    count = len(workload)
    by = {target.metric: target for target in sorted(slo.targets, key=limit_s, reverse=True)}
    if "e2e" in by:
        late = allowed_unmet(slo, count) if slo.attainment else allowed_beyond(by["e2e"], count)
        return late, limit_s(by["e2e"])
    if "ttft" not in by or "tpot" not in by:
        return None
    late = allowed_beyond(by["ttft"], count) + allowed_beyond(by["tpot"], count)
    gaps = int(workload.output_tokens.max()) - 1
    return (
        allowed_unmet(slo, count) if slo.attainment else late,
        limit_s(by["ttft"]) + gaps * limit_s(by["tpot"]),
    )


def _demand(workload: RequestTable, late: int, within_s: float, *, whole: bool) -> Demand:
    served = max(0, len(workload) - late)
    prompts = np.sort(workload.prompt_tokens)[:served]
    outputs = np.sort(workload.output_tokens)[:served] if whole else np.ones(served, dtype=np.int64)
    span_s = float(workload.arrival_s[-1] - workload.arrival_s[0])
    return Demand(prompts, outputs, span_s + within_s)
