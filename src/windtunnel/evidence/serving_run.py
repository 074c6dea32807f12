"""Outcomes by simulation: everything queued at once, or a fixed number of clients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.memory import memory_need
from windtunnel.cost.surface import StepSurface
from windtunnel.evidence.scenario import Scenario
from windtunnel.search.evaluate import settings_of
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.speculation import expected_tokens_of
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, RequestTable, request_table

SEED = 20
"""Of the drawn lengths; any other gives answers that differ by less than a percent."""


def simulated(
    scenario: Scenario, deployment: DeploymentSpec, surface: StepSurface | None = None
) -> dict[str, float] | str:
    """The outcome of an offline or closed-loop set-up, or why it cannot run.

    Args:
        scenario: the set-up.
        deployment: of the scenario, its context limit set to what occurs.
        surface: of the deployment, when already known.
    """
    longest = scenario.input_tokens + scenario.output_tokens
    memory = memory_need(deployment, longest)
    if not memory.loads or memory.kv_tokens < longest:
        return memory.reason() or f"no room for one request of {longest} tokens"
    settings = settings_of(deployment, memory)
    usable = (settings.num_blocks - 1) * settings.block_size
    if deployment.engine.reserve_output:
        # Every request takes its whole length in whole blocks at admission, so no more than these run at once.
        blocks = -(-longest // settings.block_size)
        most = max(1, (settings.num_blocks - 1) // blocks)
        settings = replace(settings, max_num_seqs=min(settings.max_num_seqs, most))
    if usable < longest:
        return f"no room for one request of {longest} tokens"
    settings = replace(settings, enable_prefix_caching=False)
    surface = surface or step_surface(deployment)
    workload = requests_of(scenario, deployment.hosted_engine)
    done = run(workload, surface, settings, replicas=deployment.plan.replicas, router="round_robin", seed=0)
    if scenario.waited_steps:
        # How long a step takes is known only once the run is: the waits follow from it.
        wait_s = scenario.waited_steps * _step_s(done, deployment)
        workload = requests_of(scenario, deployment.hosted_engine, wait_s)
        done = run(workload, surface, settings, replicas=deployment.plan.replicas, router="round_robin", seed=0)
    if done.rejected.any() or not done.finished.all():
        return "the simulated engine turned requests away"
    return _values(scenario, deployment, surface, done)


def _step_s(done: Simulation, deployment: DeploymentSpec) -> float:
    """Mean seconds between two steps of a request that decodes."""
    speculative = deployment.engine.speculative
    return float(np.nanmean(done.tpot_s)) * (expected_tokens_of(speculative) if speculative else 1.0)


def requests_of(scenario: Scenario, engine: EngineSpec | None = None, wait_s: float = 0.0) -> RequestTable:
    """The requests of an offline or closed-loop set-up, in the order they are sent.

    A client's next request reaches the scheduler the front end's time and `wait_s` after its last one was answered:
    how long the engine lets it wait although it could take it up. The clients' first requests come at once, and the
    front end turns one after the other into tokens.
    """
    count = scenario.requests
    rng = np.random.default_rng(SEED)
    prompts = _lengths(scenario.input_tokens, scenario.length_ratio, count, rng)
    outputs = _lengths(scenario.output_tokens, scenario.length_ratio, count, rng)
    after = np.full(count, AT_ARRIVAL)
    if scenario.mode == "closed":
        after[int(scenario.batch) :] = AFTER_ANY
    if engine is None or scenario.mode != "closed":
        return request_table(np.zeros(count), prompts, outputs, after=after)
    tokens_s = engine.frontend_token_s * prompts
    first = after == AT_ARRIVAL
    arrival_s = np.cumsum(np.where(first, tokens_s, 0.0))
    delay_s = np.where(first, 0.0, engine.frontend_s + tokens_s + wait_s)
    return request_table(arrival_s, prompts, outputs, after=after, delay_s=delay_s)


def _lengths(tokens: int, ratio: float, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    low = max(1, int(tokens * ratio))
    return rng.integers(low, tokens, size=count, endpoint=True, dtype=np.int64)


def _values(scenario: Scenario, deployment: DeploymentSpec, surface: StepSurface, done: Simulation) -> dict[str, float]:
    frontend_s = deployment.hosted_engine.frontend_s if scenario.mode == "closed" else 0.0
    sent_first = done.workload.after == AT_ARRIVAL
    outside_s = np.where(sent_first, frontend_s + done.workload.arrival_s, done.workload.delay_s)
    ttft, tpot, e2e = done.ttft_s + outside_s, done.tpot_s, done.e2e_s + outside_s
    span = done.makespan_s
    output = float(done.output_tokens.sum())
    plan = deployment.plan
    joules = float(done.dynamic_j.sum()) + surface.static_w * plan.replicas * span
    watts = joules / span
    values = {
        "output_tokens_per_s": output / span,
        "total_tokens_per_s": (output + float(done.workload.prompt_tokens.sum())) / span,
        "input_tokens_per_s": float(done.workload.prompt_tokens.sum()) / span,
        "requests_per_s": len(done) / span,
        "mean_w": watts,
        "mean_w_per_accelerator": watts / plan.accelerators,
        "power_share": watts / plan.accelerators / deployment.accelerator.max_w,
        "joules_per_output_token": joules / output,
    }
    for name, column in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        known = column[np.isfinite(column)]
        if len(known):
            values[f"{name}_mean_s"] = float(known.mean())
            for percent in (50, 90, 95, 99):
                values[f"{name}_p{percent}_s"] = float(np.percentile(known, percent))
    return values
