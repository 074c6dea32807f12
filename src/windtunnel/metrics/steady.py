"""Steady state: whether a run kept up with its traffic, and which part of it to look at.

Service level objectives are judged on every request of the workload. Steady-state figures leave out the
warm-up and the drain: requests that arrive in the first and in the last tenth of the arrivals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.serving.result import Simulation
from windtunnel.specs.slo import SloSpec

TRIM = 0.1
"""Share of the requests left out at each end."""
BOUNDING = 0.9
"""Targets that bound the wait of at least this share of the requests say by themselves what keeping up means."""


def steady_rows(simulation: Simulation) -> npt.NDArray[np.bool_]:
    """Which requests arrive in the steady part of the run."""
    count = len(simulation)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(simulation.arrival_s, kind="stable")] = np.arange(count)
    return (rank >= TRIM * count) & (rank < (1.0 - TRIM) * count)


def kept_up(simulation: Simulation, tolerance: float = 0.5) -> bool:
    """Whether queueing did not grow through the run.

    The mean wait of the last quarter of the requests may exceed that of the second quarter by at most
    `tolerance` of the run's mean end-to-end time. A run that ended early did not keep up.
    """
    if simulation.stop != "done":
        return False
    wait = simulation.scheduled_s - simulation.arrival_s
    order = np.argsort(simulation.arrival_s, kind="stable")
    wait, e2e = wait[order], simulation.e2e_s[order]
    quarter = len(wait) // 4
    if quarter < 10:
        return True
    growth = float(np.nanmean(wait[-quarter:]) - np.nanmean(wait[quarter : 2 * quarter]))
    return growth <= tolerance * float(np.nanmean(e2e))


def bounds_waiting(slo: SloSpec) -> bool:
    """Whether some target bounds how long all but a few requests wait, so that a growing queue breaks it.

    A 90th percentile of TTFT or end-to-end time does, and so does their mean; a median or TPOT does not.
    """
    waited = [target for target in slo.targets if target.metric != "tpot"]
    if slo.attainment:
        return slo.attainment >= BOUNDING and bool(waited)
    return any(t.statistic == "mean" or float(t.statistic[1:]) / 100.0 >= BOUNDING for t in waited)
