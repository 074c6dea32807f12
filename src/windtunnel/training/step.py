"""The price of one training step: what every pipeline rank does, from streams to seconds, joules and dollars."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from windtunnel.cost.training import PhaseSeconds
from windtunnel.errors import InfeasibleError
from windtunnel.specs.prices import price_usd_per_h
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.training.energy import step_joules, work_of
from windtunnel.training.flops import training_flops_per_token
from windtunnel.training.layouts import Layouts, ModelSeconds, layouts_of, model_seconds
from windtunnel.training.offload import is_offloaded, offload_time
from windtunnel.training.pipeline import Played, Run, StageSeconds, play
from windtunnel.training.sharding import Values, optimizer_seconds
from windtunnel.training.stages import (
    StageShape,
    StageWork,
    hop_seconds,
    rank_stages,
    stage_shapes,
    stage_work,
    step_ends,
)

PARTS = (
    "forward",
    "backward",
    "recompute",
    "tensor",
    "context",
    "expert",
    "data",
    "pipeline",
    "bubble",
    "optimizer",
    "offload",
    "host",
)
"""Where a step's time goes: compute, then communication that nothing hides, then waiting."""


@dataclass(frozen=True, slots=True)
class RankTime:
    """One pipeline rank's step.

    Attributes:
        layers: layers held.
        busy_s: compute and the communication it waits for, all microbatches.
        end_s: when its last gradient is done.
        parts: seconds by `PARTS`, adding up to the step.
    """

    layers: int
    busy_s: float
    end_s: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class StepTime:
    """A priced step.

    Attributes:
        job: what was priced.
        seconds: one optimiser step.
        parts: mean over the ranks of where the time goes, by `PARTS`; adds up to `seconds`.
        ranks: every pipeline rank.
        model_flops: work of the step as MFU counts it (6 N and causal attention), all accelerators.
        hardware_flops: work done, recomputation included.
        joules: energy of the accelerators and their servers.
        timeline: passes of every rank; empty unless asked for.
        binds: what offloading is bound by, forward, backward, update; empty without offloading.
        provenance: calibrated or datasheet.
    """

    job: TrainingJob
    seconds: float
    parts: dict[str, float]
    ranks: tuple[RankTime, ...]
    model_flops: float
    hardware_flops: float
    joules: float
    timeline: tuple[Run, ...] = ()
    binds: tuple[str, ...] = ()
    provenance: str = ""

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Tokens per second and accelerator."""
        return self.job.tokens / self.seconds / self.job.gpus

    @property
    def model_flops_per_s_per_gpu(self) -> float:
        """Model FLOPs per second and accelerator."""
        return self.model_flops / self.seconds / self.job.gpus

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation, of the peak in the plan's arithmetic format."""
        return self.model_flops_per_s_per_gpu / peak_flops_per_s(self.job)

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilisation: recomputation counted as work."""
        return self.hardware_flops / self.seconds / self.job.gpus / peak_flops_per_s(self.job)

    def usd_per_million_tokens(self, usd_per_h: float | None = None) -> float:
        """US dollars per million tokens, at a price per accelerator and hour or the catalogue's."""
        rate = price_usd_per_h(self.job.accelerator.name).usd_per_h if usd_per_h is None else usd_per_h
        return rate / 3600.0 / self.tokens_per_s_per_gpu * 1e6


def peak_flops_per_s(job: TrainingJob) -> float:
    """Dense peak in the plan's arithmetic format."""
    dtype = "fp8" if job.plan.compute_dtype == "mxfp8" else job.plan.compute_dtype
    return layouts_of(job).device().peak_flops_per_s(dtype)


def price(job: TrainingJob, *, timeline: bool = False, seconds: ModelSeconds | None = None) -> StepTime:
    """Price one step of a job whose layout fits (see `specs.training_check`).

    Args:
        job: model, cluster, batch and plan.
        timeline: play every microbatch and keep all passes.
        seconds: seconds of the model's parts, where they are known (`model_key`).
    """
    plan = job.plan
    work = _works(job, seconds)
    layouts = work.layouts
    hop = float(hop_seconds(layouts))
    played = _play(work, hop, timeline)
    ranks = range(plan.pipeline_parallel)
    values = [work.values(rank) for rank in ranks]
    ends = _ends(work, values)
    update = max(float(optimizer_seconds(layouts, one)) for one in dict.fromkeys(values))
    finished = max(end + reduce for end, (reduce, _) in zip(played.rank_end_s, ends, strict=True))
    gather = max(each for _, each in ends)
    offload = 0.0
    binds: tuple[str, ...] = ()
    if is_offloaded(job):
        offload, update, binds = _offloaded(work, update)
    total = finished + gather + update + offload + layouts.engine.step_s
    fixed = {"optimizer": update, "offload": offload, "host": layouts.engine.step_s}
    rows = tuple(_rank(work, played, rank, total, sum(ends[rank]), fixed, hop) for rank in ranks)
    parts = {name: sum(row.parts[name] for row in rows) / len(rows) for name in PARTS}
    done = work.done()
    hardware = float(np.asarray(done.flops)) * job.microbatches / plan.pipeline_parallel * job.gpus
    return StepTime(
        job=job,
        seconds=total,
        parts=parts,
        ranks=rows,
        model_flops=training_flops_per_token(job.model, job.seq_len, mtp_layers=plan.mtp_layers) * job.tokens,
        hardware_flops=hardware,
        joules=float(step_joules(layouts, done, total, total - parts["bubble"] - parts["host"])),
        timeline=played.runs,
        binds=binds,
        provenance=layouts.device().provenance,
    )


@dataclass(frozen=True, slots=True)
class _Works:
    """A job with the work of its stages; stages of one shape share theirs.

    Attributes:
        layouts: the job's layout.
        shapes, stages: every stage along the model.
        parts: seconds of one microbatch on a stage of each shape, by `PARTS`.
        held: the stages of every rank.
    """

    layouts: Layouts
    shapes: list[StageShape]
    stages: list[StageWork]
    parts: dict[StageShape, dict[str, float]]
    held: tuple[tuple[int, ...], ...]

    def done(self) -> PhaseSeconds:
        """Work of one microbatch through all stages."""
        known = dict(zip(self.shapes, self.stages, strict=True))
        return work_of(known[shape].part * float(count) for shape, count in Counter(self.shapes).items())

    def values(self, rank: int) -> Values:
        """Weights of a rank, all its chunks."""
        found = Values()
        for stage in self.held[rank]:
            found = found + self.stages[stage].values
        return found


def model_key(plan: TrainingPlan) -> TrainingPlan:
    """What the seconds of a model's parts depend on: the plan without stages, schedule and sharding."""
    apart = {"pipeline_parallel": 1, "virtual_stages": 1, "schedule": "1f1b", "stage_layers": ()}
    return plan.model_copy(update=apart | {"zero_stage": 0, "zero_group": 0})


def _works(job: TrainingJob, seconds: ModelSeconds | None) -> _Works:
    layouts, shapes = layouts_of(job), stage_shapes(job)
    seconds = seconds or model_seconds(layouts)
    known = {shape: stage_work(layouts, seconds, shape) for shape in dict.fromkeys(shapes)}
    held = tuple(tuple(rank_stages(job, rank)) for rank in range(job.plan.pipeline_parallel))
    parts = {shape: _stage_parts(one) for shape, one in known.items()}
    return _Works(layouts, shapes, [known[shape] for shape in shapes], parts, held)


def _play(work: _Works, hop: float, timeline: bool) -> Played:
    """The schedule played out; messages that nothing hides keep both ends busy."""
    job, plan = work.layouts.job, work.layouts.plan
    blocked = 0.0 if plan.overlap_p2p else hop
    last = len(work.stages) - 1
    stages = [
        StageSeconds(
            float(one.part.forward_s + one.forward_data) + (blocked if i < last else 0.0),
            float(one.part.input_gradient.total + one.part.recompute.total + one.backward_data)
            + (blocked if i else 0.0),
            float(one.part.weight_gradient.total),
        )
        for i, one in enumerate(work.stages)
    ]
    return play(
        plan.pipeline_schedule,
        stages,
        plan.pipeline_parallel,
        job.microbatches,
        hop_s=hop,
        whole=timeline,
        timeline=timeline,
    )


def _ends(work: _Works, values: list[Values]) -> list[tuple[float, float]]:
    """(reducing gradients, gathering weights) at the step's ends on every rank; like ranks are priced once."""
    known: dict[tuple[StageShape, ...], tuple[float, float]] = {}
    found = []
    for held, mine in zip(work.held, values, strict=True):
        alike = tuple(work.shapes[stage] for stage in held)
        if alike not in known:
            ends = step_ends(
                work.layouts,
                mine,
                sum(work.stages[stage].part.forward_s for stage in held),
                sum(work.stages[stage].part.backward_s for stage in held),
                sum(shape.layers for shape in alike),
            )
            known[alike] = (float(ends.reduce), float(ends.gather))
        found.append(known[alike])
    return found


def _lane_microbatches(job: TrainingJob) -> float:
    """Microbatches that each stage copy sees: half of them under DualPipe, which holds each stage twice."""
    return job.microbatches / (2.0 if job.plan.pipeline_schedule == "dualpipe" else 1.0)


def _rank(
    work: _Works,
    played: Played,
    rank: int,
    total: float,
    data_s: float,
    fixed: dict[str, float],
    hop: float,
) -> RankTime:
    plan, times = work.layouts.plan, _lane_microbatches(work.layouts.job)
    parts = dict.fromkeys(PARTS, 0.0) | fixed
    parts["data"] = data_s
    last = len(work.stages) - 1
    for stage in work.held[rank]:
        shape = work.shapes[stage]
        for name, seconds in work.parts[shape].items():
            parts[name] += times * seconds
        if not plan.overlap_p2p:
            parts["pipeline"] += times * hop * ((stage > 0) + (stage < last))
    parts["bubble"] = total - sum(parts.values())
    layers = sum(int(work.shapes[stage].layers) for stage in work.held[rank])
    return RankTime(layers, played.busy_s[rank], played.rank_end_s[rank], parts)


def _stage_parts(work: StageWork) -> dict[str, float]:
    """Seconds of one microbatch on a stage, by `PARTS`."""
    part = work.part
    found = dict.fromkeys(("tensor", "context", "expert"), 0.0)
    for name, phases in (
        ("forward", (part.forward,)),
        ("backward", (part.input_gradient, part.weight_gradient)),
        ("recompute", (part.recompute,)),
    ):
        found[name] = float(sum(phase.compute for phase in phases))
        for axis in ("tensor", "context", "expert"):
            found[axis] += float(sum(getattr(phase, axis) for phase in phases))
    found["data"] = float(work.forward_data + work.backward_data)
    return found


def _offloaded(work: _Works, update: float) -> tuple[float, float, tuple[str, ...]]:
    """(what offloading adds to the passes, the update, what binds) on the first pipeline rank."""
    job = work.layouts.job
    held, times = [work.stages[stage] for stage in work.held[0]], _lane_microbatches(job)
    forward = times * sum(float(one.part.forward_s + one.forward_data) for one in held)
    backward = times * sum(float(one.part.backward_s + one.backward_data) for one in held)
    found = offload_time(job, forward, backward)
    if not np.isfinite(found.step_s):
        slow = next(part for part in found.binds if part and part != "compute")
        raise InfeasibleError(f"the plan offloads over the {slow}, whose rate {job.node.name} does not state")
    added = found.forward_s - forward + found.backward_s - backward
    return added, found.update_s if job.plan.offload_optimizer != "none" else update, found.binds
