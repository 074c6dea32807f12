"""The front of the simulator: a workload on replicas of one deployment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.serving.result import Simulation
from windtunnel.serving.settings import HookAddresses, SchedulerSettings
from windtunnel.workload.table import RequestTable

__all__ = ["HookAddresses", "SchedulerSettings", "Simulation", "run"]


def run(
    workload: RequestTable,
    surface: StepSurface,
    settings: SchedulerSettings,
    *,
    replicas: int = 1,
    router: str = "least_outstanding",
    seed: int = 0,
    record_steps: bool = False,
    sample_interval_s: float | None = None,
    max_waiting: int | None = None,
    deadline_s: float | None = None,
    tie_order: npt.NDArray[np.int64] | None = None,
    output_unit: bool = False,
    hooks: HookAddresses | None = None,
    compiled: bool = True,
) -> Simulation:
    """Serve a workload.

    Args:
        workload: the requests.
        surface: the cost of a step of one replica.
        settings: the scheduler of each replica.
        replicas: how many replicas stand behind the router.
        router: name of the routing policy (see `windtunnel.serving.routing.ROUTERS`).
        seed: of everything random (routers that draw).
        record_steps: keep one row per step.
        sample_interval_s: keep the cluster's state at this interval, seconds.
        max_waiting: end the run as overloaded when a replica has more requests waiting.
        deadline_s: end the run at this time, seconds.
        tie_order: rank of each request among those equal in priority and arrival; default its row.
        output_unit: whether `output_id` is the content of every single generated token, rather
            than of the output as a whole.
        hooks: the functions that the scheduler and the router called `custom` ask.
        compiled: False runs the same loop as plain Python.
    """
    from windtunnel.serving.simulate import simulate

    return simulate(
        workload,
        surface,
        settings,
        replicas=replicas,
        router=router,
        seed=seed,
        record_steps=record_steps,
        sample_interval_s=sample_interval_s,
        max_waiting=max_waiting,
        deadline_s=deadline_s,
        tie_order=tie_order,
        output_unit=output_unit,
        hooks=hooks,
        compiled=compiled,
    )
