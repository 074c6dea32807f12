"""The front of the simulator: a workload on replicas of one deployment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.errors import PolicyError
from windtunnel.serving.policy import Policy
from windtunnel.serving.result import Simulation
from windtunnel.serving.settings import HookAddresses, SchedulerSettings
from windtunnel.workload.table import RequestTable

__all__ = ["HookAddresses", "Policy", "SchedulerSettings", "Simulation", "run"]


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
    policy: Policy | None = None,
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
        policy: functions of the user's own; it takes the place of the settings' scheduler, and of the router
            when it routes.

    Raises:
        PolicyError: the policy raised, answered nan, or left a replica idle while requests wait.
    """
    if policy is not None:
        return _with_policy(
            policy, workload, surface, settings, replicas=replicas, router=router, seed=seed, record_steps=record_steps,
            sample_interval_s=sample_interval_s, max_waiting=max_waiting, deadline_s=deadline_s, tie_order=tie_order,
            output_unit=output_unit, compiled=compiled,
        )  # fmt: skip
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


def _with_policy(
    policy: Policy, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings, **options: Any
) -> Simulation:
    """A run that asks a policy. One that failed in compiled code is asked again in Python, to name the line."""
    from windtunnel.serving.jit import DISABLED

    plain = DISABLED or not options["compiled"]
    if policy.scheduler == "custom":
        settings = replace(settings, scheduler="custom")
    if policy.route is not None:
        options["router"] = "custom"
    try:
        return run(workload, surface, settings, hooks=policy.hooks(plain), **options)
    except PolicyError:
        failure = policy.failure()
        if failure is None and policy.compiled:
            failure = _failure_in_python(policy.in_python(), workload, surface, settings, plain, options)
        if failure is None:
            raise
        raise failure from None


def _failure_in_python(
    policy: Policy,
    workload: RequestTable,
    surface: StepSurface,
    settings: SchedulerSettings,
    plain: bool,
    options: dict[str, Any],
) -> PolicyError | None:
    try:
        run(workload, surface, settings, hooks=policy.hooks(plain), **options)
    except PolicyError:
        return policy.failure()
    return None
