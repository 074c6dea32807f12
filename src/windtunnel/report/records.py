"""Results as plain records: the stable form of `--json`, versioned by `format`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from windtunnel.report.json import plain
from windtunnel.report.launch import launches
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import SloSpec

if TYPE_CHECKING:
    from windtunnel.metrics.summary import Metrics
    from windtunnel.search.result import Candidate, PlanResult

COUNTED = ("requests", "finished", "rejected", "kept_up")
"""Figures of a run that are counted rather than predicted."""


def deployment_record(deployment: DeploymentSpec) -> dict[str, Any]:
    """A deployment by its names, its plan and its engine's settings."""
    engine = plain(deployment.engine)
    for key in ("aliases", "title", "sources"):
        engine.pop(key, None)
    return {
        "model": deployment.model.name,
        "accelerator": deployment.accelerator.name,
        "accelerators": deployment.accelerators,
        "node": deployment.node.name,
        "scale_up": deployment.scale_up.name,
        "scale_out": deployment.scale_out.name,
        "plan": plain(deployment.plan),
        "engine": engine,
        "techniques": list(deployment.techniques),
    }


def slo_record(slo: SloSpec) -> dict[str, Any]:
    """Targets with their names in results."""
    targets = [{"key": t.key, "metric": t.metric, "statistic": t.statistic, "limit_s": t.limit_s} for t in slo.targets]
    return {"text": str(slo), "targets": targets, "attainment": slo.attainment or None}


def launch_records(deployment: DeploymentSpec, asked: str = "") -> list[dict[str, Any]]:
    """Launch commands as text and as words."""
    return [
        {
            "engine": launch.engine,
            "command": launch.text(10**9),
            "arguments": list(launch.arguments),
            "copies": launch.copies,
            "notes": list(launch.notes),
        }
        for launch in launches(deployment, asked)
    ]


def interval_record(metrics: Metrics, ends: tuple[Metrics, Metrics] | None) -> dict[str, Any] | None:
    """The 80 % interval of every figure as {low, high}, named and nested as in `metrics`; null when not asked."""
    if ends is None:
        return None

    def span(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: span([one[name] for one in values]) for name in values[0]}
        if values[0] is None:
            return None
        unknown = any(math.isnan(value) for value in values)
        return {"low": math.nan if unknown else min(values), "high": math.nan if unknown else max(values)}

    known = [{k: v for k, v in one.as_dict().items() if k not in COUNTED} for one in (metrics, *ends)]
    found: dict[str, Any] = plain(span(known))
    return found


def candidate_record(candidate: Candidate, full: bool) -> dict[str, Any]:
    """A candidate; with `full` also its deployment in detail."""
    plan = candidate.deployment.plan
    record: dict[str, Any] = {
        "label": candidate.label,
        "outcome": candidate.outcome,
        "reason": candidate.reason,
        "accelerator": candidate.deployment.accelerator.name,
        "accelerators": candidate.deployment.accelerators,
        "plan": plain(plan),
        "max_num_seqs": candidate.deployment.engine.max_num_seqs,
        "max_num_batched_tokens": candidate.deployment.engine.max_num_batched_tokens,
        "usd_per_h": candidate.usd_per_h,
        "capacity_per_s": candidate.capacity_per_s,
        "binding": candidate.binding,
        "usd_per_million_tokens": candidate.usd_per_million_tokens,
        "joules_per_output_token": candidate.joules_per_output_token,
        "memory": candidate.memory,
        "metrics": candidate.metrics,
    }
    if full:
        record["deployment"] = deployment_record(candidate.deployment)
    return record


def plan_record(result: PlanResult) -> dict[str, Any]:
    """The answer of `plan`. `pick` is null when nothing meets the targets; `closest` is then set."""
    chosen = result.pick or result.closest
    return {
        "format": "windtunnel-plan-1",
        "question": {
            "model": result.model,
            "accelerators": list(result.accelerators),
            "slo": slo_record(result.slo),
            "workload": {"name": result.workload_name, **plain(result.workload.as_dict())},
        },
        "pick": candidate_record(result.pick, True) if result.pick else None,
        "closest": candidate_record(result.closest, True) if result.closest else None,
        "metrics_interval80": interval_record(chosen.metrics, result.ends) if chosen and chosen.metrics else None,
        "launch": launch_records(chosen.deployment, result.model) if chosen else [],
        "candidates": [candidate_record(candidate, False) for candidate in result.candidates],
        "pareto": list(result.pareto),
        "simulations": result.simulations,
        "elapsed_s": result.elapsed_s,
        "interrupted": result.interrupted,
        "notes": list(result.notes),
    }
