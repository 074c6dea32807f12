"""What limits a deployment: where the slowest requests spend their time, and the resource behind it.

The time of the requests at a target's percentile is taken apart: waiting to be scheduled, and the steps that they
are in. Waiting is put down to what kept the request out at the middle of its wait (no KV memory for it, no free
slot, or steps that were full); steps to what the operators of such a step wait for.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from windtunnel.cost.draft_steps import draft_passes
from windtunnel.cost.steps import price_step
from windtunnel.metrics.mean_batch import mean_batch
from windtunnel.metrics.summary import Metrics
from windtunnel.operators.batch import Batch, decode_batch, prefill_batch
from windtunnel.serving.result import Ints, Simulation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec, Target

RESOURCES = {
    "compute": "compute",
    "memory": "memory bandwidth",
    "latency": "kernel latency",
    "link": "links between accelerators",
    "host": "host overhead",
}
DRAFTING = "drafting"
QUEUE_KV, QUEUE_SLOTS, QUEUE_BUSY = "queueing: KV memory", "queueing: request slots", "queueing: busy replicas"
LOOKED_AT = 48
"""Waiting requests whose cause is looked up, evenly over the slowest."""


def step_shares(deployment: DeploymentSpec, batch: Batch) -> dict[str, float]:
    """Share of a step's time by what its operators wait for, largest first; the host's own time is one of them."""
    cost = price_step(deployment, batch)
    seconds: dict[str, float] = defaultdict(float)
    for row in cost.operators:
        seconds[RESOURCES[row.cost.bound_by]] += row.seconds
    seconds[RESOURCES["host"]] += cost.host_s + cost.launch_wait_s
    drafting_s = sum(one.count * one.seconds for one in draft_passes(deployment, batch))
    if drafting_s and not deployment.drafter_accelerators:
        seconds[DRAFTING] += drafting_s
    total = sum(seconds.values())
    return {name: value / total for name, value in sorted(seconds.items(), key=lambda item: -item[1])}


def nearest_target(metrics: Metrics, slo: SloSpec) -> Target | None:
    """The target with the least room."""

    def used(target: Target) -> float:
        value_s = metrics.value_s(target)
        return -1.0 if math.isnan(value_s) else value_s / target.limit_s

    return max(slo.targets, key=used, default=None)


def time_at_target(simulation: Simulation, deployment: DeploymentSpec, target: Target) -> dict[str, float]:
    """Seconds by cause, the mean over the requests at or beyond a target's percentile; largest first.

    They add up to the mean of the target's metric over those requests. Empty when none got so far.
    """
    rows = _slowest(simulation, target)
    if len(rows) == 0:
        return {}
    seconds: dict[str, float] = defaultdict(float)
    mean = mean_batch(simulation, deployment.model.attended_tokens)
    if target.metric == "tpot":
        _spread(seconds, float(simulation.tpot_s[rows].mean()), step_shares(deployment, mean))
    else:
        wait_s = simulation.scheduled_s[rows] - simulation.arrival_s[rows]
        _spread(seconds, float(wait_s.mean()), _queue_shares(simulation, rows[np.argsort(wait_s)]))
        prefill_s = float((simulation.first_token_s[rows] - simulation.scheduled_s[rows]).mean())
        _spread(seconds, prefill_s, step_shares(deployment, _with_chunk(simulation, deployment, mean, rows)))
        if target.metric == "e2e":
            decode_s = float((simulation.finish_s[rows] - simulation.first_token_s[rows]).mean())
            _spread(seconds, decode_s, step_shares(deployment, mean))
    return dict(sorted(((k, v) for k, v in seconds.items() if v > 0), key=lambda item: -item[1]))


def binding(metrics: Metrics, simulation: Simulation, deployment: DeploymentSpec, slo: SloSpec) -> str:
    """One phrase such as `TPOT p99: memory bandwidth (58% of the time, then host overhead 20%)`."""
    target = nearest_target(metrics, slo)
    if target is None:
        shares = step_shares(deployment, mean_batch(simulation, deployment.model.attended_tokens))
        resource, share = next(iter(shares.items()))
        return f"{resource} ({share:.0%} of the mean step)"
    name = f"{target.metric.upper()} {target.statistic}: "
    rows = _slowest(simulation, target)
    if target.metric == "tpot" and len(rows) and float((simulation.preemptions[rows] > 0).mean()) > 0.5:
        return f"{name}KV memory (most of the slowest requests were preempted)"
    seconds = time_at_target(simulation, deployment, target)
    if not seconds:
        return f"{name}no request got so far"
    total = sum(seconds.values())
    (first, most), *others = seconds.items()
    second = f", then {others[0][0]} {others[0][1] / total:.0%}" if others else ""
    return f"{name}{first} ({most / total:.0%} of the time{second})"


def _spread(seconds: dict[str, float], total_s: float, shares: dict[str, float]) -> None:
    for name, share in shares.items():
        seconds[name] += total_s * share


def _slowest(simulation: Simulation, target: Target) -> Ints:
    """Rows at or beyond the target's percentile (all for a mean), among those that got so far."""
    values = {"ttft": simulation.ttft_s, "tpot": simulation.tpot_s, "e2e": simulation.e2e_s}[target.metric]
    rows = np.flatnonzero(np.isfinite(values))
    if target.statistic == "mean" or len(rows) == 0:
        return rows
    level = float(target.statistic[1:]) / 100.0
    return rows[values[rows] >= np.quantile(values[rows], level, method="higher")]


def _with_chunk(simulation: Simulation, deployment: DeploymentSpec, mean: Batch, rows: Ints) -> Batch:
    """The step in which such requests are prefilled: the mean step's decodes and a chunk of their prompts."""
    window = deployment.model.attended_tokens
    left = simulation.workload.prompt_tokens[rows] - simulation.cached_tokens[rows]
    chunk = int(np.clip(left.mean(), 1, simulation.settings.max_num_batched_tokens))
    step = prefill_batch([(0, chunk)], window)
    if mean.decode_requests:
        step += decode_batch(mean.decode_requests, mean.decode_context_tokens // mean.decode_requests, window)
        step = step.with_drafts(mean.queries - 1)
    return step


def _queue_shares(simulation: Simulation, rows: Ints) -> dict[str, float]:
    """What kept requests waiting, by share; `rows` ascend by their wait."""
    looked = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(np.int64))]
    weight = simulation.scheduled_s[looked] - simulation.arrival_s[looked]
    if not weight.sum() > 0:
        return {QUEUE_BUSY: 1.0}
    shares: dict[str, float] = defaultdict(float)
    for row, seconds in zip(looked.tolist(), weight.tolist(), strict=True):
        shares[_kept_out_by(simulation, row)] += seconds / float(weight.sum())
    return shares


def _kept_out_by(simulation: Simulation, row: int) -> str:
    """Why a request was not scheduled at the middle of its wait."""
    settings, prompts = simulation.settings, simulation.workload.prompt_tokens
    now_s = (simulation.arrival_s[row] + simulation.scheduled_s[row]) / 2.0
    finish_s = np.nan_to_num(simulation.finish_s, nan=np.inf)
    running = np.flatnonzero(
        (simulation.replica == simulation.replica[row]) & (simulation.scheduled_s <= now_s) & (finish_s > now_s)
    )
    if len(running) >= settings.max_num_seqs:
        return QUEUE_SLOTS
    first_s = np.nan_to_num(simulation.first_token_s[running], nan=np.inf)
    done = np.clip((now_s - first_s) / np.maximum(finish_s[running] - first_s, 1e-12), 0.0, 1.0)
    # What was found in the prefix cache is held once, by whoever brought it; each request rounds up to a block.
    own = prompts[running] - simulation.cached_tokens[running]
    held = own + np.nan_to_num(done) * simulation.workload.output_tokens[running]
    used = float(held.sum()) + settings.block_size / 2.0 * len(running)
    needed = min(int(prompts[row]), settings.max_num_batched_tokens)
    room = (settings.num_blocks - 1 - settings.watermark_blocks) * settings.block_size
    return QUEUE_KV if used + needed > room else QUEUE_BUSY
