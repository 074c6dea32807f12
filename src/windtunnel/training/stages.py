"""What each pipeline stage of a job does for one microbatch, and what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from windtunnel.cost.network import send_seconds
from windtunnel.cost.training import beside_seconds
from windtunnel.operators.operator import ACTIVATION_BYTES, Number
from windtunnel.specs.training import TrainingJob, chunk_layers
from windtunnel.training.layouts import Layouts, ModelSeconds, PartSeconds, nothing
from windtunnel.training.sharding import (
    Values,
    ahead_values,
    gather_seconds,
    layer_values,
    reduce_seconds,
    replica_seconds,
    scatter_seconds,
    table_values,
)


@dataclass(frozen=True, slots=True)
class StageShape:
    """Layers of a stage: dense and routed ones, and whether it holds the embedding or the head."""

    dense: Number
    routed: Number
    first: Number
    last: Number

    @property
    def layers(self) -> Number:
        """All layers."""
        return self.dense + self.routed


def stage_shapes(job: TrainingJob) -> list[StageShape]:
    """Stages along the model; the model's dense layers come first."""
    plan, model = job.plan, job.model
    held = chunk_layers(model.layers, plan)
    total = plan.pipeline_parallel * plan.virtual_stages
    found, dense_left = [], model.dense_layers
    for stage in range(total):
        layers = held[stage % plan.pipeline_parallel][stage // plan.pipeline_parallel]
        dense = min(dense_left, layers)
        dense_left -= dense
        found.append(StageShape(dense, layers - dense, float(stage == 0), float(stage == total - 1)))
    return found


@dataclass(slots=True)
class StageWork:
    """A stage's microbatch: seconds of its parts, and what data parallelism adds to each pass.

    Attributes:
        part: compute and the collectives inside layers.
        forward_data, backward_data: waiting for weights and gradients in every microbatch (FSDP, ZeRO-2).
        values: weights on the rank before sharding.
    """

    part: PartSeconds
    forward_data: Number
    backward_data: Number
    values: Values


def stage_work(layouts: Layouts, seconds: ModelSeconds, shape: StageShape) -> StageWork:
    """The work of one stage."""
    plan, model = layouts.plan, layouts.job.model
    part = nothing()
    values = Values()
    for count, each, routed in ((shape.dense, seconds.dense, False), (shape.routed, seconds.routed, True)):
        if np.any(np.asarray(count) > 0):
            part = part + each * count
            values = values + layer_values(layouts, routed=routed) * count
    if plan.recompute_layers:
        share = np.minimum(plan.recompute_layers / np.maximum(shape.layers * layouts.virtual, 1.0), 1.0)
        part.recompute = part.recompute * share
    if plan.mtp_layers:
        ahead = seconds.ahead + (seconds.routed if model.moe_layers else seconds.dense) + seconds.head
        part = part + ahead * (plan.mtp_layers * shape.last)
        values = values + ahead_values(layouts) * (plan.mtp_layers * shape.last)
    part = part + seconds.embedding * shape.first + seconds.head * shape.last
    values = values + table_values(layouts) * (shape.first + shape.last * (0.0 if model.tied_embeddings else 1.0))
    forward, backward = _sharded_waits(layouts, part, values, shape)
    return StageWork(part, forward, backward, values)


def _sharded_waits(layouts: Layouts, part: PartSeconds, values: Values, shape: StageShape) -> tuple[Number, Number]:
    """What gathering weights and reducing gradients in every microbatch adds to a stage's passes.

    Units are layers: while one computes the next is gathered (prefetch of one) and the last one's
    gradients are reduced. With pipeline stages, weights stay gathered for the step (`step_gather`).
    """
    if layouts.plan.zero_stage < 2 or np.all(np.asarray(layouts.pp) > 1):
        return 0.0, 0.0
    units = np.maximum(shape.layers, 1.0)
    unit = values * (1.0 / units)
    contention = layouts.cluster().contention
    gathered = layouts.plan.zero_stage == 3
    gather = gather_seconds(layouts, unit) if gathered else 0.0
    again = gather_seconds(layouts, unit, backward=True) if gathered else 0.0
    reduce = scatter_seconds(layouts, unit)
    forward, backward = part.forward_s / units, part.backward_s / units
    if not layouts.plan.overlap_param_gather:
        waits = (gather * units, (again + reduce) * units)
    elif not layouts.plan.overlap_grad_reduce:
        waits = (
            units * (beside_seconds(forward, gather, contention) - forward),
            units * (beside_seconds(backward, again, contention) - backward + reduce),
        )
    else:
        waits = (
            units * (beside_seconds(forward, gather, contention) - forward),
            units * (beside_seconds(backward, again + reduce, contention) - backward),
        )
    alone = np.asarray(layouts.pp) > 1
    return np.where(alone, 0.0, waits[0]), np.where(alone, 0.0, waits[1])


@dataclass(frozen=True, slots=True)
class StepEnds:
    """What a step adds at its ends on one rank: reducing gradients after the last backward pass, gathering
    weights before or behind the first forward pass."""

    reduce: Number
    gather: Number


def step_ends(layouts: Layouts, values: Values, forward_s: Number, backward_s: Number, layers: Number) -> StepEnds:
    """Data-parallel communication once per step on a rank.

    Args:
        layouts: the layout.
        values: weights of the rank, all its chunks.
        forward_s, backward_s: one microbatch through all chunks of the rank: what communication may hide behind.
        layers: layers of the rank.
    """
    plan = layouts.plan
    contention = layouts.cluster().contention
    first = 1.0 / np.maximum(layers, 1.0)
    reduce = _hidden(reduce_seconds(layouts, values), backward_s, first, contention, plan.overlap_grad_reduce)
    gathered = gather_seconds(layouts, values)
    gather = _hidden(gathered, forward_s, first, contention, plan.overlap_param_gather)
    if plan.zero_stage == 0:
        return StepEnds(reduce, np.zeros_like(np.asarray(gathered)))
    if plan.zero_stage == 1:
        return StepEnds(reduce, gather)
    # With every microbatch reduced as it goes, the last unit's gradients stand alone at the end, and
    # copies of the shard group are summed once. With pipeline stages it is done once per step.
    staged = np.asarray(layouts.pp) > 1
    copies = _hidden(replica_seconds(layouts, values), backward_s, first, contention, plan.overlap_grad_reduce)
    alone = scatter_seconds(layouts, values) * first + copies
    if plan.zero_stage == 3:
        gather = np.where(staged, gather, gathered * first)
    return StepEnds(np.where(staged, reduce, alone), gather)


def _hidden(sent: Number, compute: Number, first: Number, contention: float, overlap: bool) -> Number:
    """What communication adds to a pass behind which it runs: its first part stands alone."""
    if not overlap:
        return sent
    rest = sent * (1.0 - first)
    return sent * first + beside_seconds(compute, rest, contention) - compute


def hop_seconds(layouts: Layouts) -> Number:
    """Seconds to send a microbatch's hidden state to the next stage, every rank of a stage at once."""
    sharded = layouts.tp if layouts.plan.sequence_parallel else 1.0
    message = layouts.microbatch().tokens * layouts.job.model.hidden * ACTIVATION_BYTES / sharded
    took = send_seconds(message, layouts.gpus / layouts.pp, layouts.network())
    return np.where(np.asarray(layouts.pp) > 1, took, 0.0)


def rank_stages(job: TrainingJob, rank: int) -> Iterator[int]:
    """The stages that a pipeline rank holds; under DualPipe one from each end."""
    pp, count = job.plan.pipeline_parallel, job.plan.pipeline_parallel * job.plan.virtual_stages
    if job.plan.pipeline_schedule == "dualpipe":
        yield from (rank, pp - 1 - rank)
        return
    yield from range(rank, count, pp)
