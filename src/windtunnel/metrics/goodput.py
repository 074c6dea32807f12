"""Goodput: requests that meet every limit, as a share and as a rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.serving.result import Simulation
from windtunnel.specs.slo import SloSpec


def met(simulation: Simulation, slo: SloSpec) -> npt.NDArray[np.bool_]:
    """Which requests meet every limit of the SLO, each limit read per request; rejected ones do not."""
    values = {"ttft": simulation.ttft_s, "tpot": simulation.tpot_s, "e2e": simulation.e2e_s}
    single = simulation.workload.output_tokens <= 1
    good = simulation.finished & ~simulation.rejected
    for target in slo.targets:
        below = values[target.metric] <= target.limit_s
        good &= (below | single) if target.metric == "tpot" else below
    return good


def attainment(simulation: Simulation, slo: SloSpec) -> float:
    """Share of all requests that meet every limit."""
    return float(met(simulation, slo).mean()) if len(simulation) else float("nan")
