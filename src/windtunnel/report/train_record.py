"""The answer of `train` as JSON: plain values, SI units in the names."""

from __future__ import annotations

from typing import Any

from windtunnel.report.train_facts import binding, limit_s, seconds_interval
from windtunnel.report.train_launch import launch_commands
from windtunnel.specs.training import TrainingPlan
from windtunnel.training.answer import Candidate, TrainingAnswer
from windtunnel.training.step import PARTS


def train_record(answer: TrainingAnswer) -> dict[str, Any]:
    """Everything that the answer says."""
    jobs = [c.job for c in answer.candidates] or ([answer.best.job] if answer.best else [])
    return {
        "model": answer.asked,
        "objective": answer.objective,
        "given": answer.given,
        "fits": answer.fits,
        "interrupted": answer.interrupted,
        "job": None if not jobs else _job(jobs[0]),
        "best": None if answer.best is None else candidate_record(answer.best),
        "candidates": [candidate_record(candidate) for candidate in answer.candidates],
        "frontier": list(answer.frontier),
        "rejected": [{"reason": r.reason, "layouts": r.layouts, "example": r.example} for r in answer.rejected],
        "counts": answer.counts,
        "launch": [] if answer.best is None else list(launch_commands(answer.best.job)),
        "smallest_cluster": None if answer.smallest is None else _cluster(answer),
        "closest_memory": None if answer.nearest is None else answer.nearest.as_dict(),
        "budget": answer.budget,
        "elapsed_s": answer.elapsed_s,
        "notes": answer.notes,
    }


def _job(job: Any) -> dict[str, Any]:
    return {
        "engine": job.engine,
        "global_batch_sequences": job.global_batch_sequences,
        "seq_len": job.seq_len,
        "tokens": job.tokens,
    }


def _cluster(answer: TrainingAnswer) -> dict[str, Any]:
    assert answer.smallest is not None
    return {"gpus": answer.smallest.gpus, "plan": _plan(answer.smallest.plan), "memory_bytes": answer.smallest.bytes}


def _plan(plan: TrainingPlan) -> dict[str, Any]:
    """The fields of a plan that differ from their defaults, and all degrees."""
    changed: dict[str, Any] = plan.model_dump(exclude_defaults=True)
    degrees = ("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel", "micro_batch")
    return {name: getattr(plan, name) for name in degrees} | changed


def candidate_record(candidate: Candidate) -> dict[str, Any]:
    """One layout."""
    step, job = candidate.step, candidate.job
    low, high = seconds_interval(step)
    return {
        "label": candidate.label,
        "why": candidate.why,
        "accelerator": job.accelerator.name,
        "node": job.node.name,
        "gpus": job.gpus,
        "data_parallel": job.data_parallel,
        "microbatches": job.microbatches,
        "plan": _plan(job.plan),
        "step_s": step.seconds,
        "step_interval_s": [low, high],
        "limit_s": limit_s(step),
        "parts_s": {name: step.parts[name] for name in PARTS},
        "bound_by": [{"what": what, "share": share} for what, share in binding(step)],
        "tokens_per_s_per_gpu": step.tokens_per_s_per_gpu,
        "model_flops_per_s_per_gpu": step.model_flops_per_s_per_gpu,
        "mfu": step.mfu,
        "hfu": step.hfu,
        "memory": candidate.memory.as_dict(),
        "joules_per_step": step.joules,
        "joules_per_token": candidate.joules_per_token,
        "usd_per_h": candidate.usd_per_h * job.gpus,
        "usd_per_million_tokens": candidate.usd_per_million_tokens,
        "provenance": step.provenance,
    }
