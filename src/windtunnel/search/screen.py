"""Refute a deployment on the first part of a workload, when that part alone already breaks a target.

A percentile target allows a fixed number of requests beyond its limit. Requests that were served before the
first part's last arrival would have been served just so in the whole workload (arrivals that come later
cannot reach back), so when more of them than the whole workload allows are beyond the limit, the target is lost
whatever follows. Nothing is refuted that could have held.
"""

from __future__ import annotations

import math

import numpy as np

from windtunnel.serving.result import Simulation
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.table import AT_ARRIVAL, RequestTable
from windtunnel.workload.transform import first

SHARE = 0.2
"""Part of the workload that is tried first."""
WORTH = 4000
"""Workloads with fewer requests are simulated whole at once."""


def opening(workload: RequestTable) -> RequestTable | None:
    """The first part of a long workload; None when it is short or its arrivals depend on each other."""
    if len(workload) < WORTH or workload.rate_per_s <= 0 or (workload.after != AT_ARRIVAL).any():
        return None
    return first(workload, int(SHARE * len(workload)))


def refuted(simulation: Simulation, workload: RequestTable, slo: SloSpec) -> bool:
    """Whether a run of the opening shows that the whole workload cannot meet the targets.

    Args:
        simulation: the run of `opening(workload)`.
        workload: the whole workload.
        slo: the targets.
    """
    end_s = float(simulation.workload.arrival_s[-1])
    values = {"ttft": simulation.ttft_s, "tpot": simulation.tpot_s, "e2e": simulation.e2e_s}
    when = {"ttft": simulation.first_token_s, "tpot": simulation.finish_s, "e2e": simulation.finish_s}
    beyond_any = np.zeros(len(simulation), dtype=bool)
    for target in slo.targets:
        settled = when[target.metric] <= end_s
        beyond = settled & (values[target.metric] >= target.limit_s)
        beyond_any |= beyond
        if slo.attainment or target.statistic == "mean":
            continue
        counted = len(workload) if target.metric != "tpot" else int((workload.output_tokens > 1).sum())
        # The quantile at level p of n values lies at rank p * (n - 1): so many values may lie above it.
        allowed = math.ceil((1.0 - float(target.statistic[1:]) / 100.0) * (counted - 1)) + 1
        if int(beyond.sum()) > allowed:
            return True
    return bool(slo.attainment) and int(beyond_any.sum()) > math.floor((1.0 - slo.attainment) * len(workload))
