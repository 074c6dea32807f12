"""Refute a deployment on the first part of a workload, when that part alone already breaks a target.

A percentile target allows a fixed number of requests beyond its limit. What happened before the first part's
last arrival would have happened just so in the whole workload (arrivals that come later cannot reach back), so
when more of its requests are beyond the limit by then than the whole workload allows, the target is lost
whatever follows. Nothing is refuted that could have held.
"""

from __future__ import annotations

import numpy as np

from windtunnel.search.demand import allowed_beyond, allowed_unmet
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
    if simulation.stop == "overload":
        return True
    end_s = float(simulation.workload.arrival_s[-1])
    waited_s = end_s - simulation.arrival_s
    beyond_any = np.zeros(len(simulation), dtype=bool)
    for target in slo.targets:
        when = simulation.first_token_s if target.metric == "ttft" else simulation.finish_s
        settled = when <= end_s
        if target.metric == "tpot":
            beyond = settled & (simulation.tpot_s >= target.limit_s)
        else:
            beyond = np.where(settled, when - simulation.arrival_s, waited_s) >= target.limit_s
        beyond &= ~simulation.rejected
        beyond_any |= beyond
        if not slo.attainment and target.statistic != "mean":
            counted = len(workload) if target.metric != "tpot" else int((workload.output_tokens > 1).sum())
            if int(beyond.sum()) > allowed_beyond(target, counted):
                return True
    return bool(slo.attainment) and int(beyond_any.sum()) > allowed_unmet(slo, len(workload))
