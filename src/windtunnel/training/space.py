"""The space of layouts: every combination of degrees that divides, times every set of flags worth trying.

Degrees are enumerated exactly: TP up to a node, PP up to the layers, EP over the divisors of the experts,
any CP that leaves a rank at least `LEAST_TOKENS` of a sequence, every number of virtual stages and every
microbatch up to `MOST_TOKENS` (one sequence always). Values that the user names replace these choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from windtunnel.specs.training import Offload, TrainingJob, TrainingPlan
from windtunnel.training.memory_fits import Degrees
from windtunnel.training.question import DEGREES, EngineFeatures, TrainingQuestion

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEAST_TOKENS = 1024
"""Tokens of a sequence that context parallelism leaves a rank at least, unless the user names degrees."""
MOST_TOKENS = 65_536
"""Tokens of a microbatch on a rank at most, unless it is a single sequence or the user names sizes."""
LEAST_TENSOR = 8
"""Tensor parallelism is tried up to the node's accelerators, and up to this where nodes are smaller."""

MOST_RECOMPUTED = ("full", "selective", "none")
MANY = 400_000
"""Layouts from which on virtual stages and microbatches are thinned out (`thinned`); the best are refined after."""


@dataclass(frozen=True, slots=True)
class Table:
    """Layouts of one cluster, one entry each.

    Attributes:
        gpus: accelerators.
        tp, pp, cp, ep, etp, virtual, micro: degrees and sequences per microbatch.
        count: microbatches per step and data-parallel rank; 0 where the batch does not divide.
    """

    gpus: int
    tp: Ints
    pp: Ints
    cp: Ints
    ep: Ints
    etp: Ints
    virtual: Ints
    micro: Ints
    count: Ints

    def __len__(self) -> int:
        return len(self.tp)

    def take(self, where: Mask | Ints) -> Table:
        """Some of the layouts."""
        names = ("tp", "pp", "cp", "ep", "etp", "virtual", "micro", "count")
        return replace(self, **{name: getattr(self, name)[where] for name in names})

    @property
    def copies(self) -> Ints:
        """Ranks that hold the same dense weights: DP x CP."""
        found: Ints = self.gpus // (self.tp * self.pp)
        return found

    def degrees(self) -> Degrees:
        """As the cost model takes them."""
        return Degrees(
            gpus=self.gpus,
            tensor_parallel=self.tp,
            pipeline_parallel=self.pp,
            context_parallel=self.cp,
            expert_parallel=self.ep,
            virtual_stages=self.virtual,
            micro_batch=self.micro,
            expert_tensor_parallel=self.etp,
        )

    def plan(self, flags: TrainingPlan, i: int) -> TrainingPlan:
        """The plan of one layout; it is checked as any plan is."""
        columns = (self.tp, self.pp, self.cp, self.ep, self.etp, self.virtual, self.micro)
        degrees = {name: int(column[i]) for name, column in zip(DEGREES, columns, strict=True)}
        if degrees["expert_tensor_parallel"] == (degrees["tensor_parallel"] if degrees["expert_parallel"] == 1 else 1):
            degrees["expert_tensor_parallel"] = 0  # the usual one
        changed: dict[str, Any] = dict(degrees)
        if degrees["tensor_parallel"] == 1:
            changed |= {"sequence_parallel": False, "tp_overlap": False}
        if degrees["context_parallel"] == 1:
            changed["context_method"] = "ring"
        return TrainingPlan(**(flags.model_dump() | changed))


def divisors(number: int, most: int | None = None) -> list[int]:
    """Divisors of a number, ascending.

    >>> divisors(12, 4)
    [1, 2, 3, 4]
    """
    return [d for d in range(1, min(number, most or number) + 1) if number % d == 0]


def table_of(job: TrainingJob, features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]]) -> Table:
    """Every layout of a cluster whose degrees divide model and cluster."""
    rows: list[Ints] = []
    for tp, pp, cp in product(_tensor(job, features, wanted), _pipeline(job, features, wanted), _context(job, wanted)):
        if job.gpus % (tp * pp * cp) or not _combined(job, features, wanted, (tp, pp, cp)):
            continue
        experts = _experts(job, features, wanted, tp, job.gpus // pp)
        virtual = _virtual(job, features, wanted, pp)
        micro = _micro(job, wanted, tp * pp * cp, cp)
        block = [(tp, pp, cp, ep, etp, v, m) for (ep, etp), v, m in product(experts, virtual, micro)]
        if block:
            rows.append(np.array(block, dtype=np.int64))
    columns = np.concatenate(rows).T if rows else np.empty((7, 0), dtype=np.int64)
    tp, pp, cp, ep, etp, virtual, micro_batch = columns
    share = job.gpus // np.maximum(tp * pp * cp, 1) * micro_batch
    count = np.where(job.global_batch_sequences % np.maximum(share, 1) == 0, job.global_batch_sequences // share, 0)
    return Table(job.gpus, tp, pp, cp, ep, etp, virtual, micro_batch, count)


def _chosen(wanted: Mapping[str, tuple[Any, ...]], name: str, own: list[int]) -> list[int]:
    """The user's values of a degree, else the search's own."""
    return [int(value) for value in wanted[name]] if name in wanted else own


def _combined(
    job: TrainingJob, features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]], degrees: tuple[int, int, int]
) -> bool:
    """Whether the engine runs these degrees together, where the user has not named them."""
    tp, pp, cp = degrees
    if job.model.moe is not None and pp > 1 and not features.staged_expert:
        return False
    if features.even_stages and job.model.layers % pp and "pipeline_parallel" not in wanted:
        return False
    return not (features.context_alone and cp > 1 and max(tp, pp) > 1) or "context_parallel" in wanted


def _tensor(job: TrainingJob, features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]]) -> list[int]:
    model = job.model
    most = max(job.node.accelerators, LEAST_TENSOR) if features.tensor else 1
    found = _chosen(wanted, "tensor_parallel", divisors(job.gpus, most))
    if model.latent is None:
        found = [t for t in found if model.kv_heads % t == 0 or t % model.kv_heads == 0]
    return [t for t in found if model.heads % t == 0 and (not model.dense_layers or model.ffn % t == 0)]


def _pipeline(job: TrainingJob, features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]]) -> list[int]:
    most = job.model.layers + 2 if features.schedules else 1
    stated = [len(held) for held in (job.plan.stage_layers, *wanted.get("stage_layers", ())) if held]
    own = sorted(set(stated)) if stated else divisors(job.gpus, most)
    found = _chosen(wanted, "pipeline_parallel", own)
    return [p for p in found if p <= job.model.layers + 2 * (p > 2)]


def _context(job: TrainingJob, wanted: Mapping[str, tuple[Any, ...]]) -> list[int]:
    return _chosen(
        wanted, "context_parallel", [c for c in divisors(job.gpus) if job.seq_len >= LEAST_TOKENS * c or c == 1]
    )


def _experts(
    job: TrainingJob, features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]], tp: int, stage: int
) -> list[tuple[int, int]]:
    """(EP, expert TP) that divide experts and a pipeline stage's ranks."""
    moe = job.model.moe
    if moe is None:
        return [(ep, tp) for ep in _chosen(wanted, "expert_parallel", [1]) if ep == 1]
    spread = divisors(moe.experts, stage) if features.expert else [1]
    found = []
    for ep in _chosen(wanted, "expert_parallel", spread):
        usual = tp if ep == 1 else 1
        own = sorted({1, tp}) if features.expert_tensor else [usual]
        for etp in _chosen(wanted, "expert_tensor_parallel", own):
            width = etp or usual
            if moe.experts % ep == 0 and moe.expert_ffn % width == 0 and stage % (ep * width) == 0:
                found.append((ep, width))
    return found


def _virtual(job: TrainingJob, features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]], pp: int) -> list[int]:
    most = (job.model.layers + 2) // pp if pp > 1 else 1
    own = list(range(1, most + 1)) if "interleaved" in features.schedules else [1]
    return [v for v in _chosen(wanted, "virtual_stages", own) if v <= most]


def _micro(job: TrainingJob, wanted: Mapping[str, tuple[Any, ...]], ranks: int, cp: int) -> list[int]:
    """Sequences per microbatch; 1 stands for layouts whose batch does not divide."""
    each, rest = divmod(job.global_batch_sequences, job.gpus // ranks)
    if rest or not each:
        return [1]
    most = max(MOST_TOKENS * cp // job.seq_len, 1)
    return _chosen(wanted, "micro_batch", divisors(each, most))


def flag_sets(question: TrainingQuestion, job: TrainingJob, *, offload: bool = False) -> Iterator[TrainingPlan]:
    """Sets of flags to try on a cluster, as plans whose degrees are 1; recomputation varies fastest, most first.

    Args:
        question: what is asked.
        job: the job on the cluster.
        offload: keep optimiser states, and what else the engine can, outside the accelerators.
    """
    features, wanted = question.features, question.wanted
    own: dict[str, tuple[Any, ...]] = {
        "sequence_parallel": (True,),
        "schedule": tuple(s for s in features.schedules if s not in ("interleaved", "gpipe")) or ("1f1b",),
        "context_method": features.context_methods or ("ring",),
        "tp_overlap": (False, True) if features.tensor_overlap else (False,),
        "recompute": tuple(features.recompute),
    }
    flags = own | {name: values for name, values in wanted.items() if name not in (*DEGREES, *_ZERO)}
    again = sorted(flags.pop("recompute"), key=MOST_RECOMPUTED.index)
    for stage, group in _zero(features, wanted, job):
        for moved in offload_sets(features, stage) if offload else [{}]:
            for values in product(*flags.values(), again):
                changed: dict[str, Any] = dict(zip((*flags, "recompute"), values, strict=True)) | moved
                changed |= {"zero_stage": stage, "zero_group": group} | dict.fromkeys(DEGREES, 1)
                yield job.plan.model_copy(update=changed | {"expert_tensor_parallel": 0})


def offload_sets(features: EngineFeatures, stage: int) -> list[dict[str, Offload]]:
    """What may be kept outside the accelerators, the least that is moved first."""
    kinds = {kind: ("none", *features.offload.get(kind, ())) for kind in ("optimizer", "activations", "weights")}
    if stage < 3:
        kinds["weights"] = ("none",)
    found = [
        dict(zip((f"offload_{kind}" for kind in kinds), values, strict=True)) for values in product(*kinds.values())
    ]
    return [one for one in found if one["offload_optimizer"] != "none"]


_ZERO = ("zero_stage", "zero_group")


def _zero(
    features: EngineFeatures, wanted: Mapping[str, tuple[Any, ...]], job: TrainingJob
) -> list[tuple[Literal[0, 1, 2, 3], int]]:
    """(stage, group) pairs; groups of a node's ranks and of eight and 64 nodes'."""
    stages = wanted.get("zero_stage", tuple(sorted({*features.zero, *features.staged_zero})))
    found: list[tuple[Literal[0, 1, 2, 3], int]] = []
    for stage in stages:
        own = [0]
        if stage in features.grouped_zero:
            own += [n for n in (job.node.accelerators * k for k in (1, 8, 64)) if 1 < n < job.gpus]
        found += [(stage, group) for group in wanted.get("zero_group", own) if stage or not group]
    return found


def divided(table: Table, job: TrainingJob) -> dict[str, Mask]:
    """Whether the batch of each layout divides, by what is in the way; all must hold."""
    count, copies = table.count, table.gpus // (table.tp * table.pp * table.cp)
    return {
        "fewer sequences than data-parallel ranks": copies <= job.global_batch_sequences,
        "DP x microbatch does not divide the batch": (count > 0) | (copies > job.global_batch_sequences),
        "interleaving needs microbatches in multiples of PP": (table.virtual == 1) | (count % table.pp == 0),
    }


def runnable(table: Table, flags: TrainingPlan, question: TrainingQuestion, job: TrainingJob) -> Mask:
    """Which layouts a set of flags makes sense for: it changes something there, and the engine can run it."""
    features, free = question.features, question.wanted
    staged = table.pp > 1
    good = np.ones(len(table), dtype=np.bool_)
    stage, group = flags.zero_stage, flags.zero_group
    if "zero_stage" not in free:
        good &= np.where(staged, stage in features.staged_zero, stage in features.zero)
    if stage:
        # Nothing to shard: the same as the lowest stage that is offered.
        lowest = stage == min(free.get("zero_stage", (*features.zero, *features.staged_zero)))
        good &= (table.copies > 1) | (lowest and not group)
    if group:
        good &= (table.copies % group == 0) & (table.copies > group)
    for apart in (flags.zero_weight_group, flags.zero_secondary_group):
        good &= not apart or (table.copies % apart == 0)
    good &= not flags.zero_secondary_group or stage == 3
    if flags.stage_layers:
        good &= (table.pp == len(flags.stage_layers)) & (sum(flags.stage_layers) == job.model.layers)
    good &= _schedulable(table, flags, staged)
    if flags.context_method == "ulysses":
        good &= (job.model.heads % (table.tp * table.cp) == 0) & ((table.cp > 1) | ("ring" not in _methods(question)))
    elif "ring" not in _methods(question):
        good &= table.cp == 1
    pieces = table.cp * np.where((table.cp > 1) & (flags.context_method == "ring"), 2, 1)
    good &= job.seq_len % (pieces * (table.tp if flags.sequence_parallel else 1)) == 0
    if not question.features.context_methods and "context_method" not in free:
        good &= table.cp == 1
    if flags.tp_overlap:
        good &= (table.tp > 1) | (free.get("tp_overlap") == (True,))
    return good


def _methods(question: TrainingQuestion) -> tuple[Any, ...]:
    return question.wanted.get("context_method", question.features.context_methods or ("ring",))


def _schedulable(table: Table, flags: TrainingPlan, staged: Mask) -> Mask:
    """Layouts that a schedule runs; all are the same without a pipeline, where only one is taken."""
    if flags.schedule == "1f1b":
        return np.ones(len(table), dtype=np.bool_)
    good: Mask = staged & (table.virtual > 1 if flags.schedule == "interleaved" else table.virtual == 1)
    if flags.schedule == "dualpipe":
        good &= (table.pp % 2 == 0) & (table.count % 2 == 0) & (table.count >= 2 * table.pp)
    return good


def thinned(table: Table, layers: int) -> Table:
    """The table with one number of virtual stages per size of the largest chunk, and microbatches of powers of two."""
    size = -(-layers // (table.pp * table.virtual))
    # The fewest chunks of a size: one chunk less would make them larger.
    fewest = (table.virtual == 1) | (-(-layers // (table.pp * np.maximum(table.virtual - 1, 1))) > size)
    return table.take(fewest & (table.micro & (table.micro - 1) == 0))
