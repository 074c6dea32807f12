"""The price of one training step: what every pipeline rank does, from streams to seconds, joules and dollars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.cost.energy import energy_shares
from windtunnel.cost.network import domain_of
from windtunnel.cost.training import PhaseSeconds
from windtunnel.errors import InfeasibleError
from windtunnel.specs.prices import price_usd_per_h
from windtunnel.specs.training import TrainingJob
from windtunnel.training.flops import training_flops_per_token
from windtunnel.training.layouts import Layouts, layouts_of, model_seconds
from windtunnel.training.offload import is_offloaded, offload_time
from windtunnel.training.pipeline import Played, Run, StageSeconds, play
from windtunnel.training.sharding import Values, optimizer_seconds
from windtunnel.training.stages import StageWork, hop_seconds, rank_stages, stage_shapes, stage_work, step_ends

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


def price(job: TrainingJob, *, timeline: bool = False) -> StepTime:
    """Price one step of a job whose layout fits (see `specs.training_check`).

    Args:
        job: model, cluster, batch and plan.
        timeline: play every microbatch and keep all passes.
    """
    layouts, plan = layouts_of(job), job.plan
    seconds = model_seconds(layouts)
    works = [stage_work(layouts, seconds, shape) for shape in stage_shapes(job)]
    hop = float(hop_seconds(layouts))
    played = _play(job, works, hop, timeline)
    ranks = range(plan.pipeline_parallel)
    ends = [_ends(job, layouts, works, rank) for rank in ranks]
    values = [_rank_values(job, works, rank) for rank in ranks]
    update = max(float(optimizer_seconds(layouts, one)) for one in values)
    finished = max(end + reduce for end, (reduce, _) in zip(played.rank_end_s, ends, strict=True))
    gather = max(each for _, each in ends)
    offload = 0.0
    binds: tuple[str, ...] = ()
    if is_offloaded(job):
        offload, update, binds = _offloaded(job, works, update)
    total = finished + gather + update + offload + layouts.engine.step_s
    fixed = {"optimizer": update, "offload": offload, "host": layouts.engine.step_s}
    rows = tuple(_rank(job, works, played, rank, total, sum(ends[rank]), fixed, hop) for rank in ranks)
    parts = {name: sum(row.parts[name] for row in rows) / len(rows) for name in PARTS}
    hardware, joules = _work(job, works, total, total - parts["bubble"] - parts["host"])
    return StepTime(
        job=job,
        seconds=total,
        parts=parts,
        ranks=rows,
        model_flops=training_flops_per_token(job.model, job.seq_len) * job.tokens,
        hardware_flops=hardware,
        joules=joules,
        timeline=played.runs,
        binds=binds,
        provenance=layouts.device().provenance,
    )


def _play(job: TrainingJob, works: list[StageWork], hop: float, timeline: bool) -> Played:
    """The schedule played out; messages that nothing hides keep both ends busy."""
    plan = job.plan
    blocked = 0.0 if plan.overlap_p2p else hop
    stages = [
        StageSeconds(
            float(work.part.forward_s + work.forward_data) + (blocked if i < len(works) - 1 else 0.0),
            float(work.part.input_gradient.total + work.part.recompute.total + work.backward_data)
            + (blocked if i else 0.0),
            float(work.part.weight_gradient.total),
        )
        for i, work in enumerate(works)
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


def _rank_values(job: TrainingJob, works: list[StageWork], rank: int) -> Values:
    values = Values()
    for stage in rank_stages(job, rank):
        values = values + works[stage].values
    return values


def _ends(job: TrainingJob, layouts: Layouts, works: list[StageWork], rank: int) -> tuple[float, float]:
    held = list(rank_stages(job, rank))
    shapes = stage_shapes(job)
    found = step_ends(
        layouts,
        _rank_values(job, works, rank),
        sum(works[stage].part.forward_s for stage in held),
        sum(works[stage].part.backward_s for stage in held),
        sum(shapes[stage].layers for stage in held),
    )
    return float(found.reduce), float(found.gather)


def _lane_microbatches(job: TrainingJob) -> float:
    """Microbatches that each stage copy sees: half of them under DualPipe, which holds each stage twice."""
    return job.microbatches / (2.0 if job.plan.pipeline_schedule == "dualpipe" else 1.0)


def _rank(
    job: TrainingJob,
    works: list[StageWork],
    played: Played,
    rank: int,
    total: float,
    data_s: float,
    fixed: dict[str, float],
    hop: float,
) -> RankTime:
    times = _lane_microbatches(job)
    parts = dict.fromkeys(PARTS, 0.0) | fixed
    parts["data"] = data_s
    layers = 0
    shapes = stage_shapes(job)
    for stage in rank_stages(job, rank):
        work, part = works[stage], works[stage].part
        layers += int(shapes[stage].layers)
        for name, phases in (
            ("forward", (part.forward,)),
            ("backward", (part.input_gradient, part.weight_gradient)),
            ("recompute", (part.recompute,)),
        ):
            parts[name] += times * float(sum(phase.compute for phase in phases))
            for axis in ("tensor", "context", "expert"):
                parts[axis] += times * float(sum(getattr(phase, axis) for phase in phases))
        parts["data"] += times * float(work.forward_data + work.backward_data)
        if not job.plan.overlap_p2p:
            parts["pipeline"] += times * hop * ((stage > 0) + (stage < len(works) - 1))
    parts["bubble"] = total - sum(parts.values())
    return RankTime(layers, played.busy_s[rank], played.rank_end_s[rank], parts)


def _offloaded(job: TrainingJob, works: list[StageWork], update: float) -> tuple[float, float, tuple[str, ...]]:
    """(what offloading adds to the passes, the update, what binds) on the first pipeline rank."""
    held, times = list(rank_stages(job, 0)), _lane_microbatches(job)
    forward = times * sum(float(works[stage].part.forward_s + works[stage].forward_data) for stage in held)
    backward = times * sum(float(works[stage].part.backward_s + works[stage].backward_data) for stage in held)
    found = offload_time(job, forward, backward)
    if not np.isfinite(found.step_s):
        slow = next(part for part in found.binds if part and part != "compute")
        raise InfeasibleError(f"the plan offloads over the {slow}, whose rate {job.node.name} does not state")
    added = found.forward_s - forward + found.backward_s - backward
    return added, found.update_s if job.plan.offload_optimizer != "none" else update, found.binds


def _work(job: TrainingJob, works: list[StageWork], total: float, busy: float) -> tuple[float, float]:
    """(floating-point operations of the step, joules of accelerators and servers); terms as in `cost.energy`."""
    device, shares = layouts_of(job).device(), energy_shares()
    done = PhaseSeconds()
    for work in works:
        part = work.part
        done = done + part.forward + part.input_gradient + part.weight_gradient + part.recompute
    micros = job.microbatches / job.plan.pipeline_parallel
    flops, moved, sent = (float(np.asarray(x)) * micros for x in (done.flops, done.moved_bytes, done.sent_bytes))
    envelope = job.accelerator.max_w - job.accelerator.idle_w
    drawn = envelope * (
        shares.compute_share * flops / peak_flops_per_s(job)
        + shares.memory_share * moved / device.bandwidth_bytes_per_s
        + shares.link_share * sent / max(job.scale_up.bytes_per_s, 1.0)
        + shares.active_share * busy
    )
    servers = -(-job.gpus // domain_of(job.gpus, job.node.accelerators)) * job.node.host_w
    one = job.accelerator.idle_w * total + min(drawn, envelope * total)
    return flops * job.gpus, one * job.gpus + servers * total
