"""What limits a deployment: the target that gives way first, and the resource behind it."""

from __future__ import annotations

from collections import defaultdict

from windtunnel.cost.steps import price_step
from windtunnel.metrics.mean_batch import mean_batch
from windtunnel.metrics.summary import Metrics
from windtunnel.operators.batch import Batch
from windtunnel.serving.run import Simulation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec, Target

FULL_CACHE = 0.97
"""Peak share of KV blocks in use from which KV memory is what binds."""

RESOURCES = {
    "compute": "compute",
    "memory": "memory bandwidth",
    "latency": "kernel latency",
    "link": "links between accelerators",
    "host": "host overhead",
}


def step_shares(deployment: DeploymentSpec, batch: Batch) -> dict[str, float]:
    """Share of a step's time by what its operators wait for; the host's own time is one of them."""
    cost = price_step(deployment, batch)
    seconds: dict[str, float] = defaultdict(float)
    for row in cost.operators:
        seconds[row.cost.bound_by] += row.seconds
    seconds["host"] += cost.host_s + cost.launch_wait_s
    total = sum(seconds.values())
    return {name: value / total for name, value in sorted(seconds.items(), key=lambda item: -item[1])}


def nearest_target(metrics: Metrics, slo: SloSpec) -> Target | None:
    """The target with the least room."""
    if not slo.targets:
        return None
    return max(slo.targets, key=lambda target: metrics.value_s(target) / target.limit_s)


def binding(metrics: Metrics, simulation: Simulation, deployment: DeploymentSpec, slo: SloSpec) -> str:
    """One phrase such as `TPOT p99: memory bandwidth`.

    KV memory binds when the cache is full or requests were preempted; else, the resource that takes the largest
    share of the mean step. When requests wait longer than they compute, the phrase says so.
    """
    target = nearest_target(metrics, slo)
    name = f"{target.metric.upper()} {target.statistic}: " if target is not None else ""
    if metrics.preemptions or metrics.peak_kv_share > FULL_CACHE:
        return f"{name}KV memory ({metrics.peak_kv_share:.0%} of blocks in use at the peak)"
    shares = step_shares(deployment, mean_batch(simulation, deployment.model.window_tokens))
    resource, share = next(iter(shares.items()))
    text = f"{name}{RESOURCES[resource]} ({share:.0%} of the mean step)"
    if target is not None and target.metric != "tpot" and metrics.busy_share > 0.9:
        text += ", with queueing as replicas are busy"
    return text
