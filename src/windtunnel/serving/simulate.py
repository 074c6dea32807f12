"""Runs the kernel and turns its arrays into a `Simulation`."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.errors import PolicyError, SpecError
from windtunnel.serving import state
from windtunnel.serving.arrays import Arrays, build
from windtunnel.serving.jit import first_call
from windtunnel.serving.kernel import Kernel, kernel
from windtunnel.serving.log import PREEMPTED, SERVED
from windtunnel.serving.result import Simulation, StepTable, Stop, TimeSeries
from windtunnel.serving.settings import HookAddresses, SchedulerSettings
from windtunnel.workload.table import RequestTable

_STOPS: dict[int, Stop] = {state.DONE: "done", state.OVERLOAD: "overload", state.DEADLINE: "deadline"}


def simulate(
    workload: RequestTable,
    surface: StepSurface,
    settings: SchedulerSettings,
    *,
    replicas: int,
    router: str,
    seed: int,
    record_steps: bool,
    sample_interval_s: float | None,
    max_waiting: int | None,
    deadline_s: float | None,
    tie_order: npt.NDArray[np.int64] | None,
    output_unit: bool,
    hooks: HookAddresses | None,
    compiled: bool,
) -> Simulation:
    """See `windtunnel.serving.run.run`."""
    if replicas < 1:
        raise SpecError(f"replicas must be at least 1, got {replicas}")
    arrays = build(workload, surface, settings, replicas, router, seed)
    world = arrays.world
    world["recording"], world["token_output"] = record_steps, output_unit
    if tie_order is not None:
        arrays.requests["tie"] = tie_order
    if sample_interval_s is not None:
        if not sample_interval_s > 0:
            raise SpecError(f"the sampling interval must be above 0 s, got {sample_interval_s}")
        world["sample_interval_s"], world["next_sample_s"] = sample_interval_s, 0.0
    if max_waiting is not None:
        world["max_waiting"] = max_waiting
    if deadline_s is not None:
        world["deadline_s"] = deadline_s
    if hooks is not None:
        for field in fields(hooks):
            world[f"hook_{field.name}"] = getattr(hooks, field.name)
    loop = kernel(
        settings.scheduler,
        ahead=settings.ahead,
        evicting=settings.evicting,
        windowed=settings.window_groups > 0,
        routed=router == "custom",
        adapted=settings.lora is not None,
        compiled=compiled,
    )
    status = execute(arrays, loop)
    return _simulation(workload, settings, arrays, _STOPS[status])


def execute(arrays: Arrays, loop: Kernel) -> int:
    """Run the loop to its end, with more room for its logs whenever it asks.

    Raises:
        PolicyError: a hook failed, or a policy left a replica idle whose requests wait.
    """
    while True:
        with first_call(loop.run_loop):
            status = int(loop.run_loop(*arrays.arguments(loop.compiled)))
        if status == state.HOOK_FAILED:
            raise PolicyError("a hook of the policy failed")
        if status == state.STUCK:
            raise PolicyError("the scheduler leaves a replica idle while requests wait, and nothing can change that")
        if status != state.NEED_SPACE:
            return status
        slots = arrays.slots.shape[1]
        arrays.log = _grown(arrays.log, 8 * slots)
        arrays.steps = _grown(arrays.steps, 256)
        arrays.series = _grown(arrays.series, 256)


def _grown(array: Any, least: int) -> Any:
    """The array with at least twice the length of its last axis."""
    longer = np.zeros((*array.shape[:-1], max(2 * array.shape[-1], least)), dtype=array.dtype)
    longer[..., : array.shape[-1]] = array
    return longer


def _simulation(workload: RequestTable, settings: SchedulerSettings, arrays: Arrays, stop: Stop) -> Simulation:
    world, requests, replicas = arrays.world[0], arrays.requests, arrays.replicas
    rejected = requests["fits"] == 0
    arrived = rejected | (requests["replica"] >= 0)
    ends = requests["finish_s"][np.isfinite(requests["finish_s"])]
    return Simulation(
        workload=workload,
        settings=settings,
        arrival_s=np.where(arrived, requests["arrival_s"], math.nan),
        scheduled_s=requests["scheduled_s"].copy(),
        first_token_s=requests["first_token_s"].copy(),
        finish_s=requests["finish_s"].copy(),
        output_tokens=np.minimum(requests["generated"], _asked(workload, settings)),
        preemptions=requests["preemptions"].copy(),
        cached_tokens=requests["cached"].copy(),
        replica=requests["replica"].copy(),
        rejected=rejected,
        busy_s=replicas["busy_s"].copy(),
        dynamic_j=replicas["dynamic_j"].copy(),
        steps=replicas["steps"].copy(),
        tokens=replicas["tokens"].copy(),
        peak_blocks=settings.num_blocks - 1 - replicas["min_free"],
        stalled_s=replicas["stalled_s"].copy(),
        swapped_blocks=replicas["swapped_out"] + replicas["swapped_in"],
        peak_host_blocks=replicas["host_peak"].copy(),
        **{name: replicas[name].copy() for name in ("drafting_s", "rounds", "draft_rounds", "drafted", "accepted")},
        **{name: replicas[name].copy() for name in ("adapter_steps", "adapter_loads")},
        makespan_s=float(ends.max(initial=float(world["now_s"]) if stop != "done" else 0.0)),
        prefix_queries=int(world["prefix_queries"]),
        prefix_hits=int(world["prefix_hits"]),
        stop=stop,
        step_table=_step_table(arrays) if world["recording"] else None,
        series=_series(arrays) if world["sample_interval_s"] > 0 else None,
    )


def _asked(workload: RequestTable, settings: SchedulerSettings) -> npt.NDArray[np.int64]:
    """Output tokens that count for each request (static batching computes more)."""
    longest = np.minimum(workload.prompt_tokens + workload.output_tokens, settings.max_model_len)
    asked: npt.NDArray[np.int64] = np.maximum(longest - workload.prompt_tokens, 0)
    return asked


def _step_table(arrays: Arrays) -> StepTable:
    world = arrays.world[0]
    steps = arrays.steps[: world["steps"]]
    columns = {name: steps[name].copy() for name in (steps.dtype.names or ()) if not name.startswith("first_")}
    served = arrays.log[SERVED, : world["entries"]]
    return StepTable(
        **columns,
        entry_offset=np.append(steps["first_entry"], world["entries"]),
        entry_request=served["request"].copy(),
        entry_tokens=served["tokens"].copy(),
        preempted_offset=np.append(steps["first_preempted"], world["preempted"]),
        preempted_request=arrays.log[PREEMPTED, : world["preempted"]]["request"].copy(),
    )


def _series(arrays: Arrays) -> TimeSeries:
    samples = arrays.series[: arrays.world["samples"][0]]
    interval_s = float(arrays.world["sample_interval_s"][0])
    return TimeSeries(
        time_s=samples["time_s"].copy(),
        running=samples["running"].copy(),
        waiting=samples["waiting"].copy(),
        used_blocks=samples["used_blocks"].copy(),
        tokens_per_s=np.diff(samples["tokens"], prepend=0) / interval_s,
    )
