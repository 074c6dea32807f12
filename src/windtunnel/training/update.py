"""The optimiser's update on a rank: bytes that it touches and products that it makes.

Element-wise updates read gradients, read and write master copies (or the weights themselves) and
states, and write the 16-bit weights. Besides, per matrix of m x n values, m <= n:

    GaLore, APOLLO   2 m n r FLOP to project gradients; GaLore as much again to project back
    Muon, COSMOS     five Newton-Schulz iterations of 4 m m n + 2 m m m FLOP; COSMOS 4 m n r besides

GaLore's singular value decompositions (every 200 steps) run for minutes on a GPU in ways that no
count of FLOP predicts; they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.operators.operator import Number
from windtunnel.specs.training import Optimizer, TrainingJob
from windtunnel.training.memory_layout import MemoryLayout, memory_layout
from windtunnel.training.memory_parts import standing, state_value_bytes
from windtunnel.training.memory_stages import StageLoad, stage_load
from windtunnel.training.optimizers import Matrix, optimizer_facts, rank_of, state_bytes

NEWTON_SCHULZ_STEPS = 5
"""Iterations of Muon's orthogonalisation (https://kellerjordan.github.io/posts/muon/)."""


@dataclass(frozen=True, slots=True)
class UpdateWork:
    """Work of one update on a rank."""

    bytes: Number
    flops: Number


def update_work(job: TrainingJob, rank: int = 0) -> UpdateWork:
    """The update of a job's pipeline rank."""
    return layout_update_work(memory_layout(job), stage_load(job.model, job.plan, job.microbatches, rank))


def layout_update_work(layout: MemoryLayout, load: StageLoad) -> UpdateWork:
    """The update of a pipeline rank, of one layout or of many."""
    plan = layout.plan
    moved: Number = 0.0
    flops: Number = 0.0
    sharded = plan.zero_stage > 0
    for m in standing(layout, load).matrices:
        ranks = (layout.expert_zero_ranks if m.routed else layout.zero_ranks) if sharded else 1.0
        states = state_bytes(plan.optimizer, m, rank=plan.optimizer_rank, value_bytes=state_value_bytes(layout))
        values = m.values * (layout.gradient_bytes + _weight_traffic(layout))
        moved = moved + (values + 2.0 * states) / ranks
        flops = flops + m.count * product_flops(plan.optimizer, m, plan.optimizer_rank) / ranks
    return UpdateWork(moved, flops)


def _weight_traffic(layout: MemoryLayout) -> float:
    """Bytes per value read and written of weights: a master copy both ways and 16-bit weights out, or weights alone."""
    if layout.plan.master_weights and layout.weight_bytes < 4.0:
        return 8.0 + layout.weight_bytes
    return 2.0 * layout.weight_bytes


def product_flops(optimizer: Optimizer, matrix: Matrix, rank: int = 0) -> Number:
    """FLOP of matrix products in one matrix's update."""
    short, long = np.minimum(matrix.rows, matrix.cols), np.maximum(matrix.rows, matrix.cols)
    if matrix.kind == "vector" or matrix.kind in optimizer_facts()[optimizer].full_state:
        return 0.0
    r = rank_of(optimizer, matrix, rank)
    orthogonal = NEWTON_SCHULZ_STEPS * (4.0 * short * short * long + 2.0 * short**3)
    if optimizer in ("apollo", "apollo-mini"):
        return 2.0 * matrix.each * r
    if optimizer == "galore":
        return 4.0 * matrix.each * r
    if optimizer == "muon":
        return orthogonal
    if optimizer == "cosmos":
        return orthogonal + 4.0 * matrix.each * r
    return 0.0
