"""Memory of many layouts at once, and the smallest cluster that would hold a job.

The formulas are those of `training.memory`, evaluated over arrays. All layouts of a call share the
job's flags (ZeRO stage, recomputation, formats, optimiser); their degrees differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product

import numpy as np
import numpy.typing as npt

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.training.memory_layout import MemoryLayout, runtime_memory
from windtunnel.training.memory_peak import peak_of
from windtunnel.training.memory_stages import StageLoad, stacked, stage_load

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Degrees of many layouts, one entry each (or a scalar for all).

    Attributes:
        gpus: accelerators.
        tensor_parallel, pipeline_parallel, context_parallel, expert_parallel: degrees.
        virtual_stages: model chunks per pipeline rank.
        micro_batch: sequences per microbatch.
        expert_tensor_parallel: TP inside an expert; 0 as in the plan.
    """

    gpus: npt.ArrayLike
    tensor_parallel: npt.ArrayLike = 1
    pipeline_parallel: npt.ArrayLike = 1
    context_parallel: npt.ArrayLike = 1
    expert_parallel: npt.ArrayLike = 1
    virtual_stages: npt.ArrayLike = 1
    micro_batch: npt.ArrayLike = 1
    expert_tensor_parallel: npt.ArrayLike = 0

    def arrays(self) -> dict[str, Ints]:
        """All degrees as arrays of one length."""
        names = [f.name for f in fields(self)]
        values = np.broadcast_arrays(*(np.atleast_1d(np.asarray(getattr(self, n), dtype=np.int64)) for n in names))
        return dict(zip(names, values, strict=True))


def fits(job: TrainingJob, degrees: Degrees) -> npt.NDArray[np.bool_]:
    """Which layouts fit the job's accelerator."""
    return peak_bytes(job, degrees) <= job.accelerator.memory_bytes


def peak_bytes(job: TrainingJob, degrees: Degrees) -> Floats:
    """Memory of the worst pipeline rank of every layout, context and communicators included.

    Args:
        job: model, batch, accelerator and the flags of the plan.
        degrees: the layouts; their degrees must divide (see `specs.training_check`).
    """
    d = degrees.arrays()
    layout, microbatches = _layout(job, d)
    keys = np.stack([d["pipeline_parallel"], d["virtual_stages"], microbatches], axis=1)
    unique, where = np.unique(keys, axis=0, return_inverse=True)
    worst: Floats = np.zeros(len(keys))
    for load in _ranks(job, unique):
        np.maximum(worst, peak_of(layout, _spread(load, where.reshape(-1))), out=worst)
    return worst * runtime_memory().reserved_share + _context(job, d)


def _layout(job: TrainingJob, d: dict[str, Ints]) -> tuple[MemoryLayout, Ints]:
    plan = job.plan
    tp, pp, cp, ep = (d[f"{axis}_parallel"] for axis in ("tensor", "pipeline", "context", "expert"))
    dp = np.maximum(d["gpus"] // (tp * pp * cp), 1)
    microbatches = np.maximum(job.global_batch_sequences // (dp * d["micro_batch"]), 1)
    given = d["expert_tensor_parallel"] if plan.expert_tensor_parallel == 0 else plan.expert_tensor_parallel
    etp = np.where(given > 0, given, np.where(ep == 1, tp, 1))
    expert_ranks = np.maximum(d["gpus"] // pp // (ep * etp), 1)
    ranks = np.minimum(dp * cp, plan.zero_group) if plan.zero_group else dp * cp
    expert_ranks = np.minimum(expert_ranks, plan.zero_group) if plan.zero_group else expert_ranks
    sharded = plan.zero_stage > 0
    as_float = {name: values.astype(np.float64) for name, values in d.items()}
    return MemoryLayout(
        model=job.model,
        plan=plan,
        engine=job.engine,
        seq_len=float(job.seq_len),
        tp=as_float["tensor_parallel"],
        pp=as_float["pipeline_parallel"],
        cp=as_float["context_parallel"],
        ep=as_float["expert_parallel"],
        etp=etp.astype(np.float64),
        virtual=as_float["virtual_stages"],
        sequences=as_float["micro_batch"],
        microbatches=microbatches.astype(np.float64),
        zero_ranks=ranks.astype(np.float64) if sharded else 1.0,
        expert_zero_ranks=expert_ranks.astype(np.float64) if sharded else 1.0,
        secondary_ranks=float(plan.zero_secondary_group),
    ), microbatches


def _ranks(job: TrainingJob, unique: Ints) -> Iterator[StageLoad]:
    """Loads of the pipeline ranks that may be the worst, one entry per (PP, virtual stages, microbatches)."""
    rows = [_loads(job, *(int(number) for number in row)) for row in unique]
    return map(stacked, zip(*rows, strict=True))


_KNOWN: OrderedDict[tuple[object, ...], tuple[StageLoad, ...]] = OrderedDict()
_MOST_KNOWN = 65_536


def _loads(job: TrainingJob, pp: int, virtual: int, microbatches: int) -> tuple[StageLoad, ...]:
    """Loads of one pipeline's ranks that may be the worst; they depend on nothing else of the flags."""
    plan, model = job.plan, job.model
    key = (
        model.layers,
        model.dense_layers,
        model.moe is None,
        plan.schedule,
        plan.stage_layers,
        plan.mtp_layers,
        pp,
        virtual,
        microbatches,
    )
    found = _KNOWN.get(key)
    if found is None:
        own = _plan(plan, pp, virtual)
        ranks = (min(max(rank, 0), pp - 1) for rank in _candidates(job, own))
        found = _KNOWN[key] = tuple(stage_load(model, own, microbatches, rank) for rank in ranks)
        if len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.popitem(last=False)
    return found


def _candidates(job: TrainingJob, plan: TrainingPlan) -> list[int]:
    """Ranks to look at.

    The first holds the embedding and most microbatches, the last the head; the second has the most
    layers of those between, of which later ones keep fewer microbatches. Leading dense layers of a
    mixture of experts may fill the first ranks, so two more are looked at. With zero-bubble schedules,
    later ranks hold more weight-gradient parts: the worst is at an end of a run of equal ranks.
    """
    last = plan.pipeline_parallel - 1
    found = [0, 1, last]
    if job.model.moe is not None and job.model.dense_layers:
        found += [2, 3]
    if plan.schedule == "zero-bubble":  # by name, so that all layouts of a call have as many
        extra = job.model.layers % plan.pipeline_parallel
        found += [extra, extra + 1, last - 1]
    return found


def _plan(plan: TrainingPlan, pp: int, virtual: int) -> TrainingPlan:
    held = plan.stage_layers if len(plan.stage_layers) == pp else ()
    return plan.model_copy(update={"pipeline_parallel": pp, "virtual_stages": virtual, "stage_layers": held})


def _spread(load: StageLoad, where: Ints) -> StageLoad:
    """Loads of unique pipelines as those of layouts."""
    return StageLoad(**{f.name: np.asarray(getattr(load, f.name))[where] for f in fields(StageLoad)})


def _context(job: TrainingJob, d: dict[str, Ints]) -> Floats:
    runtime = runtime_memory()
    axes = ("tensor_parallel", "context_parallel", "pipeline_parallel", "expert_parallel")
    groups: Floats = np.sum([d[name] > 1 for name in axes], axis=0, dtype=np.float64)
    dp = d["gpus"] // (d["tensor_parallel"] * d["pipeline_parallel"] * d["context_parallel"])
    groups += dp > 1
    return groups * runtime.communicator_bytes + runtime.context_bytes


@dataclass(frozen=True, slots=True)
class Cluster:
    """The smallest cluster found for a job: its size, a layout that fits there, and its memory."""

    gpus: int
    plan: TrainingPlan
    bytes: float


def smallest_cluster(job: TrainingJob, *, most_gpus: int = 65_536) -> Cluster | None:
    """The smallest cluster that would hold a job in some layout, or None.

    Degrees, ZeRO stage and recomputation are free; formats, optimiser, offload and schedule stay
    as the job's plan has them. Microbatches are one sequence long. Clusters are part of a node or
    whole nodes, in steps of at most a thirtieth of their size.
    """
    node = job.node.accelerators
    coarse = [n for n in range(1, node) if node % n == 0]
    coarse += [node * k << i for k in (1, 3) for i in range(20) if node * k << i <= most_gpus]
    found = _smallest(job, sorted(coarse))
    if found is None or found.gpus <= node:
        return found
    nodes = found.gpus // node
    step = max(1, nodes // 30)
    finer = _smallest(job, [node * n for n in range(nodes // 2 + 1, nodes, step)])
    return finer or found


def _smallest(job: TrainingJob, sizes: list[int]) -> Cluster | None:
    best: Cluster | None = None
    space = _space(job, sizes)
    if space is None:
        return None
    d = space.arrays()
    for zero, recompute in product((0, 1, 2, 3), ("none", "full")):
        plan = job.plan.model_copy(
            update={"zero_stage": zero, "recompute": recompute, "sequence_parallel": True, "stage_layers": ()}
        )
        found = peak_bytes(job.model_copy(update={"plan": plan}), space)
        good = np.flatnonzero(found <= job.accelerator.memory_bytes)
        if not len(good):
            continue
        # The fewest accelerators; among those, the layout that leaves most room.
        i = good[np.lexsort((found[good], d["gpus"][good]))[0]]
        if best is None or (int(d["gpus"][i]), float(found[i])) < (best.gpus, best.bytes):
            best = Cluster(int(d["gpus"][i]), _chosen(plan, d, int(i)), float(found[i]))
    return best


def _chosen(plan: TrainingPlan, d: dict[str, Ints], i: int) -> TrainingPlan:
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel")
    degrees = {name: int(d[name][i]) for name in names} | {"micro_batch": 1, "virtual_stages": 1}
    # ZeRO and the sequence's shards need ranks to shard over.
    return plan.model_copy(update=degrees | {"sequence_parallel": degrees["tensor_parallel"] > 1})


def _space(job: TrainingJob, sizes: list[int]) -> Degrees | None:
    """Layouts of clusters: TP inside a node, PP up to the layers, EP up to the experts, CP for long sequences."""
    model, node = job.model, job.node.accelerators
    tps = [t for t in range(1, node + 1) if node % t == 0 and model.heads % t == 0 and model.ffn % t == 0]
    tps = [t for t in tps if model.kv_heads % t == 0 or t % model.kv_heads == 0 or model.latent is not None]
    pps = [p for p in range(1, model.layers + 1) if model.layers % p == 0 or p & (p - 1) == 0]
    cps = [c for c in (1, 2, 4, 8, 16, 32, 64) if c == 1 or (job.seq_len >= 8192 * c and job.seq_len % (2 * c) == 0)]
    eps = [e for e in range(1, model.moe.experts + 1) if model.moe.experts % e == 0] if model.moe else [1]
    table = np.array(list(product(sizes, tps, pps, cps, eps)), dtype=np.int64)
    if not len(table):
        return None
    gpus, tp, pp, cp, ep = table.T
    copies = np.maximum(gpus // (tp * pp * cp), 1)
    good = (gpus % (tp * pp * cp) == 0) & (job.global_batch_sequences % copies == 0) & (gpus // pp % ep == 0)
    if not good.any():
        return None
    gpus, tp, pp, cp, ep = table[good].T
    return Degrees(gpus=gpus, tensor_parallel=tp, pipeline_parallel=pp, context_parallel=cp, expert_parallel=ep)
