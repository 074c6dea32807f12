"""The figures that papers on serving report, computed from a setup."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.cost.memory import memory_need
from windtunnel.cost.steps import price_step
from windtunnel.evidence.experiment_depth import (
    accepted_parallel,
    accepted_serial,
    parallel_draft_token_s,
    plain_token_s,
    scheduled_depth_s,
    serial_draft_token_s,
    token_exit_s,
)
from windtunnel.evidence.experiment_service import effective_per_s, most_requests_per_s
from windtunnel.metrics.gaps import token_gaps_s
from windtunnel.metrics.summary import Metrics
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.search.capacity import bracket
from windtunnel.search.serve import Run, serve
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import build
from windtunnel.specs.slo import SloSpec, parse_slo
from windtunnel.specs.workload import WorkloadSpec
from windtunnel.workload.load import load_workload
from windtunnel.workload.table import RequestTable

if TYPE_CHECKING:
    from windtunnel.evidence.experiment import Setup


def table_of(setup: Setup) -> RequestTable:
    """The setup's workload; the same for every variant, as its randomness is seeded."""
    return _table(repr(sorted(setup.workload().items(), key=str)), build_workload(setup))


def build_workload(setup: Setup) -> WorkloadSpec:
    """The workload's spec."""
    return build(WorkloadSpec, setup.workload(), "setup: workload")


@lru_cache(maxsize=16)
def _tables() -> dict[str, RequestTable]:
    return {}


def _table(key: str, spec: WorkloadSpec) -> RequestTable:
    kept = _tables()
    if key not in kept:
        kept[key] = load_workload(spec).table
    return kept[key]


def simulated(setup: Setup, record_steps: bool = False, scale: float = 1.0) -> Run:
    """The setup's workload served, its arrivals `scale` times as fast."""
    table = table_of(setup)
    return serve(
        setup.deployment, table.with_rate(scale) if scale != 1.0 else table, slo_of(setup), record_steps=record_steps
    )


def slo_of(setup: Setup) -> SloSpec:
    """The setup's targets, possibly none."""
    text = str(setup.fields.get("slo", ""))
    return parse_slo(text, "setup: slo") if text else SloSpec()


def metric(name: str) -> Callable[[Setup], float]:
    """A figure of `Metrics` of the served workload, by its name there."""

    def figure(setup: Setup) -> float:
        metrics: Metrics = simulated(setup).metrics
        return metrics.value(name)

    return figure


def gap(level: float) -> Callable[[Setup], float]:
    """A quantile of the time between tokens over all tokens, seconds."""

    def figure(setup: Setup) -> float:
        gaps = token_gaps_s(simulated(setup, record_steps=True).simulation)
        return float(np.quantile(gaps, level)) if len(gaps) else math.nan

    return figure


def makespan_s(setup: Setup) -> float:
    """From the first arrival to the last token."""
    makespan: float = simulated(setup).simulation.makespan_s
    return makespan


def capacity_per_s(setup: Setup) -> float:
    """Largest request rate of the workload's mix at which the setup's targets hold, requests per second."""
    slo, table = slo_of(setup), table_of(setup)

    def holds(scale: float) -> bool:
        return serve(setup.deployment, table.with_rate(scale), slo).metrics.meets(slo)

    return bracket(holds).holds * table.rate_per_s


def capacity_between_tokens_per_s(setup: Setup) -> float:
    """Largest request rate at which time between tokens and scheduling delay keep to `limits`, requests per second.

    Reads `limits.gap_p99_s` and `limits.wait_p50_s` (Sarathi-Serve's definition of capacity, section 5).
    """
    limits: dict[str, float] = setup.fields["limits"]
    table = table_of(setup)

    def holds(scale: float) -> bool:
        run = simulated(setup, record_steps=True, scale=scale).simulation
        gaps = token_gaps_s(run)
        wait_s = float(np.median(run.scheduled_s - run.arrival_s))
        return bool(np.quantile(gaps, 0.99) <= limits["gap_p99_s"] and wait_s <= limits["wait_p50_s"])

    return bracket(holds).holds * table.rate_per_s


def decode_tokens_per_s(setup: Setup) -> float:
    """Tokens per second of decode steps of `batch.requests` requests with `batch.context` tokens each."""
    batch: dict[str, Any] = setup.fields["batch"]
    return float(batch["requests"]) / decode_step_s(setup.deployment, int(batch["requests"]), float(batch["context"]))


def decode_step_s(deployment: DeploymentSpec, requests: int, context: float) -> float:
    """Seconds of one decode step."""
    return price_step(deployment, decode_batch(requests, round(context), deployment.model.attended_tokens)).total_s


def prompts_s(deployment: DeploymentSpec, requests: int, tokens: int) -> float:
    """Seconds of the step that computes so many whole prompts."""
    return price_step(deployment, prefill_batch([(0, tokens)] * requests, deployment.model.attended_tokens)).total_s


def prefill_s(setup: Setup) -> float:
    """Seconds to the first token of `batch.requests` prompts of `batch.context` tokens, computed together."""
    batch: dict[str, Any] = setup.fields["batch"]
    return prompts_s(setup.deployment, int(batch["requests"]), int(batch["context"]))


def offline_tokens_per_s(setup: Setup) -> float:
    """Throughput of static batches, prompt then decode, at the largest power-of-two batch that memory allows.

    Reads `batch`: `prompt` and `output` tokens, and `most` (the largest batch tried).
    """
    given: dict[str, Any] = setup.fields["batch"]
    prompt, output = int(given["prompt"]), int(given["output"])
    best = 0.0
    size = 1
    while size <= int(given.get("most", 1024)):
        if not fits(setup.deployment, size, prompt + output):
            break
        best = max(best, size * output / batch_seconds(setup.deployment, size, prompt, output))
        size *= 2
    return best


def batch_tokens_per_s(setup: Setup) -> float:
    """Throughput of a static batch: `batch.requests` of `prompt` and `output` tokens each; 0 where it does not fit."""
    given: dict[str, Any] = setup.fields["batch"]
    size, prompt, output = int(given["requests"]), int(given["prompt"]), int(given["output"])
    if not fits(setup.deployment, size, prompt + output):
        return 0.0
    return size * output / batch_seconds(setup.deployment, size, prompt, output)


def fits(deployment: DeploymentSpec, requests: int, tokens: int) -> bool:
    """Whether the cache holds so many requests of so many tokens."""
    need = memory_need(deployment, float(tokens))
    return need.kv_tokens >= requests * tokens


def batch_seconds(deployment: DeploymentSpec, requests: int, prompt: int, output: int) -> float:
    """A static batch from its prompts to its last token: decode steps at eight points of the growing context."""
    first_s = prompts_s(deployment, requests, prompt)
    contexts = np.linspace(prompt + 1, prompt + output - 1, 8)
    step_s = float(np.mean([decode_step_s(deployment, requests, float(context)) for context in contexts]))
    return first_s + (output - 1) * step_s


FIGURES: dict[str, Callable[[Setup], float]] = {
    "output_tokens_per_s": metric("output_tokens_per_s"),
    "total_tokens_per_s": metric("total_tokens_per_s"),
    "request_throughput_per_s": metric("request_throughput_per_s"),
    "goodput_per_s": metric("goodput_per_s"),
    "attainment": metric("attainment"),
    **{
        f"{m}_{s}": metric(f"{m}_{s}")
        for m in ("ttft", "tpot", "e2e")
        for s in ("mean", "p50", "p90", "p95", "p99", "p99.9")
    },
    "gap_p50": gap(0.5),
    "gap_p95": gap(0.95),
    "gap_p99": gap(0.99),
    "gap_p99.9": gap(0.999),
    "makespan": makespan_s,
    "capacity": capacity_per_s,
    "capacity_between_tokens": capacity_between_tokens_per_s,
    "effective_per_s": effective_per_s,
    "most_requests_per_s": most_requests_per_s,
    "decode_tokens_per_s": decode_tokens_per_s,
    "prefill": prefill_s,
    "offline_tokens_per_s": offline_tokens_per_s,
    "batch_tokens_per_s": batch_tokens_per_s,
    "scheduled_depth": scheduled_depth_s,
    "token_exit": token_exit_s,
    "plain_token": plain_token_s,
    "serial_draft_token": serial_draft_token_s,
    "parallel_draft_token": parallel_draft_token_s,
    "accepted_serial": accepted_serial,
    "accepted_parallel": accepted_parallel,
}
"""Figures by name; latencies in seconds, rates per second."""
