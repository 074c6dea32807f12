"""What a pipeline rank holds, and how many microbatches of it are alive at the schedule's peak.

GPipe           all m microbatches                       arXiv:1811.06965
1F1B            min(m, p - r) on rank r of p             arXiv:2104.04473, section 2.2.1
interleaved     2 (p - r - 1) + (v - 1) p + 1 chunks     arXiv:2104.04473, section 2.2.2
zero-bubble     as 1F1B, and r weight-gradient parts     arXiv:2401.10241, ZB-H1
DualPipe        p - r of stage r, r + 1 of stage p-1-r   arXiv:2412.19437, Table 2 (p + 1 in all)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from windtunnel.operators.operator import Number
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingPlan, chunk_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoad:
    """Layers of a pipeline rank and their live microbatches; every number may be an array.

    Attributes:
        dense, sparse: layers held with a dense and with a routed MLP.
        live_dense, live_sparse: the same times their microbatches alive at the peak.
        late_dense, late_sparse: layers times microbatches that wait for their weight gradients only.
        first, last: embeddings and heads held.
        live_first, live_last: microbatches alive in the embedding's and the head's chunk.
    """

    dense: Number
    sparse: Number
    live_dense: Number
    live_sparse: Number
    late_dense: Number
    late_sparse: Number
    first: Number
    last: Number
    live_first: Number
    live_last: Number

    @property
    def layers(self) -> Number:
        """Layers held."""
        return self.dense + self.sparse


def live_chunks(schedule: str, ranks: int, virtual: int, microbatches: int, rank: int) -> tuple[int, ...]:
    """Microbatches alive per chunk of a rank at the peak.

    >>> live_chunks("interleaved", 4, 2, 8, 0)
    (7, 4)
    """
    if schedule == "gpipe":
        return (microbatches,) * virtual
    if virtual == 1:
        return (min(ranks - rank, microbatches),)
    warm = min(2 * (ranks - rank - 1) + (virtual - 1) * ranks + 1, microbatches * virtual)
    counts = [0] * virtual
    done = 0
    start = 0
    while done < warm:
        group = min(ranks, microbatches - start)
        for chunk in range(virtual):
            here = min(group, warm - done)
            counts[chunk] += here
            done += here
        start += group
    return tuple(counts)


def stage_load(model: ModelSpec, plan: TrainingPlan, microbatches: int, rank: int) -> StageLoad:
    """What rank `rank` of the pipeline holds and keeps alive."""
    ranks, virtual = plan.pipeline_parallel, plan.virtual_stages
    schedule = plan.pipeline_schedule
    if schedule == "dualpipe" and ranks > 1:
        # Both directions feed the pipeline with half of the microbatches.
        half = -(-microbatches // 2)
        near = _chunks(model, plan, rank, (min(ranks - rank, half),))
        far = _chunks(model, plan, ranks - 1 - rank, (min(rank + 1, half),))
        return _load([*near, *far], ranks, 1)
    live = live_chunks(schedule, ranks, virtual, microbatches, rank)
    late = max(0, min(rank, microbatches - live[0])) if schedule == "zero-bubble" else 0
    return _load(_chunks(model, plan, rank, live), ranks, virtual, late)


Chunk = tuple[int, int, int, int]
"""A chunk of the model: its index, its dense and sparse layers, and its live microbatches."""


def _chunks(model: ModelSpec, plan: TrainingPlan, rank: int, live: tuple[int, ...]) -> list[Chunk]:
    held = _held(model.layers, plan.pipeline_parallel, plan.virtual_stages, plan.stage_layers, plan.mtp_layers)
    ranks = plan.pipeline_parallel
    order = [held[i % ranks][i // ranks] for i in range(ranks * plan.virtual_stages)]
    found = []
    for chunk, alive in enumerate(live):
        index = chunk * ranks + rank
        before, here = sum(order[:index]), order[index]
        dense = max(0, min(model.dense_layers, before + here) - before)
        sparse = here - dense
        if index == len(order) - 1:  # layers that predict further ahead are of the last kind
            dense += plan.mtp_layers * (model.moe_layers == 0)
            sparse += plan.mtp_layers * (model.moe_layers > 0)
        found.append((index, dense, sparse, alive))
    return found


@lru_cache(maxsize=4096)
def _held(
    layers: int, ranks: int, virtual: int, stage_layers: tuple[int, ...], mtp_layers: int
) -> tuple[tuple[int, ...], ...]:
    plan = TrainingPlan(
        pipeline_parallel=ranks, virtual_stages=virtual, stage_layers=stage_layers, mtp_layers=mtp_layers
    )
    return chunk_layers(layers, plan)


def _load(chunks: list[Chunk], ranks: int, virtual: int, late: int = 0) -> StageLoad:
    end = ranks * virtual - 1
    dense, sparse = sum(c[1] for c in chunks), sum(c[2] for c in chunks)
    return StageLoad(
        dense=float(dense),
        sparse=float(sparse),
        live_dense=float(sum(c[1] * c[3] for c in chunks)),
        live_sparse=float(sum(c[2] * c[3] for c in chunks)),
        late_dense=float(dense * late),
        late_sparse=float(sparse * late),
        first=float(sum(c[0] == 0 for c in chunks)),
        last=float(sum(c[0] == end for c in chunks)),
        live_first=float(sum(c[3] for c in chunks if c[0] == 0)),
        live_last=float(sum(c[3] for c in chunks if c[0] == end)),
    )


def stacked(loads: Sequence[StageLoad]) -> StageLoad:
    """Several loads as one whose numbers are arrays."""
    columns = {f.name: np.array([getattr(load, f.name) for load in loads], dtype=np.float64) for f in fields(StageLoad)}
    return StageLoad(**columns)
