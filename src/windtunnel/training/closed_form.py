"""The price of a step for many layouts at once, without playing the pipeline.

The same layers, collectives and data-parallel ends as `training.step`, with arrays for the degrees.
Stages are told apart as the first (embedding), the last (head) and the fullest between; the schedule
is its formula on them: the fullest rank's work for all microbatches, and one microbatch through the
others (`training.schedule.bubble_seconds` on uniform stages).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from windtunnel.cost.training import PhaseSeconds
from windtunnel.operators.operator import Number
from windtunnel.specs.training import TrainingJob
from windtunnel.training.energy import step_joules, work_of
from windtunnel.training.layouts import Layouts, ModelSeconds, PartSeconds, model_seconds
from windtunnel.training.memory_fits import Degrees
from windtunnel.training.sharding import optimizer_seconds
from windtunnel.training.stages import StageShape, StageWork, hop_seconds, stage_work, step_ends

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds and joules of a step of every layout; joules of all accelerators and their servers."""

    seconds: Floats
    joules: Floats


def step_seconds(job: TrainingJob, degrees: Degrees) -> Floats:
    """Seconds of a step of every layout; see `step_costs`."""
    return step_costs(job, degrees).seconds


def step_costs(job: TrainingJob, degrees: Degrees) -> StepCosts:
    """Seconds and joules of a step of every layout; they share the job's flags, formats and schedule.

    Layouts are taken to be valid (`specs.training_check`): impossible ones give a number without meaning.

    Args:
        job: model, cluster, batch and the plan whose degrees are replaced.
        degrees: one layout an entry; more than one virtual stage makes a layout interleaved.
    """
    columns = degrees.arrays()
    found = StepCosts(np.zeros(columns["gpus"].shape), np.zeros(columns["gpus"].shape))
    for gpus in np.unique(columns["gpus"]):
        mine = columns["gpus"] == gpus
        one = job.model_copy(update={"gpus": int(gpus)})
        costs = _costs(one, {name: column[mine].astype(np.float64) for name, column in columns.items()})
        found.seconds[mine], found.joules[mine] = costs.seconds, costs.joules
    return found


def _layouts(job: TrainingJob, c: dict[str, Floats]) -> Layouts:
    stated = c["expert_tensor_parallel"]
    usual = np.where(c["expert_parallel"] > 1, 1.0, c["tensor_parallel"])
    own = float(job.plan.expert_tensor_parallel)
    return Layouts(
        job=job,
        gpus=c["gpus"],
        tp=c["tensor_parallel"],
        pp=c["pipeline_parallel"],
        cp=c["context_parallel"],
        ep=c["expert_parallel"],
        etp=np.where(stated > 0, stated, own if own else usual),
        virtual=c["virtual_stages"],
        micro_batch=c["micro_batch"],
    )


def _costs(job: TrainingJob, columns: dict[str, Floats]) -> StepCosts:
    layouts = _layouts(job, columns)
    seconds = _unique_seconds(layouts)
    ends = _rank_shapes(layouts)
    works = [stage_work(layouts, seconds, shape) for shape in ends]
    pipe = _pipeline(layouts, ends, works)
    reduce: Number = 0.0
    gather: Number = 0.0
    update: Number = 0.0
    for shape, work in zip(ends, works, strict=True):
        found = step_ends(layouts, work.values, work.part.forward_s, work.part.backward_s, shape.layers)
        reduce, gather = np.maximum(reduce, found.reduce), np.maximum(gather, found.gather)
        update = np.maximum(update, optimizer_seconds(layouts, work.values))
    once = reduce + gather + update
    total = np.asarray(pipe + once + layouts.engine.step_s, dtype=np.float64)
    through = _through(layouts, ends)
    busy = sum(
        (work.part.forward_s + work.part.backward_s + work.forward_data + work.backward_data) * times
        for work, times in zip(works, through, strict=True)
    )
    done = work_of(work.part * times for work, times in zip(works, through, strict=True))
    joules = step_joules(layouts, done, total, busy * layouts.microbatches / layouts.pp + once)
    return StepCosts(total, np.asarray(joules, dtype=np.float64))


def _through(layouts: Layouts, shapes: tuple[StageShape, StageShape, StageShape]) -> tuple[Number, Number, Number]:
    """How often a microbatch meets each kind of rank on its way through the model."""
    first, middle, last = shapes
    between = float(layouts.job.model.layers) - first.layers - last.layers
    return 1.0, between / np.maximum(middle.layers, 1.0), 1.0


def _unique_seconds(layouts: Layouts) -> ModelSeconds:
    """Seconds of the model's parts, each combination of what they depend on priced once."""
    keys = np.stack([np.asarray(x) for x in (layouts.tp, layouts.cp, layouts.ep, layouts.etp, layouts.micro_batch)])
    unique, where = np.unique(keys, axis=1, return_inverse=True)
    where = where.reshape(-1)
    few = Layouts(
        job=layouts.job,
        gpus=np.full(unique.shape[1], float(layouts.job.gpus)),
        tp=unique[0],
        pp=np.ones(unique.shape[1]),
        cp=unique[1],
        ep=unique[2],
        etp=unique[3],
        virtual=np.ones(unique.shape[1]),
        micro_batch=unique[4],
    )
    priced = model_seconds(few)

    def spread(phase: PhaseSeconds) -> PhaseSeconds:
        return PhaseSeconds(*(_taken(getattr(phase, name), where) for name in PhaseSeconds.__slots__))

    def part(one: PartSeconds) -> PartSeconds:
        return PartSeconds(*(spread(getattr(one, name)) for name in PartSeconds.__slots__))

    return ModelSeconds(*(part(getattr(priced, f.name)) for f in fields(ModelSeconds)))


def _taken(value: Number, where: npt.NDArray[np.intp]) -> Number:
    found = np.asarray(value)
    return found[where] if found.ndim else float(found)


def _rank_shapes(layouts: Layouts) -> tuple[StageShape, StageShape, StageShape]:
    """First, fullest middle and last pipeline rank, all chunks together, as `chunk_layers` deals layers out.

    Routed and dense layers are taken to be spread evenly.
    """
    model = layouts.job.model
    pp, total = np.asarray(layouts.pp), np.asarray(layouts.pp) * layouts.virtual
    base = np.floor(model.layers / total)
    extra = model.layers - base * total
    beside = np.minimum(extra, np.maximum(total - 2, 0))
    held = base * layouts.virtual
    first = held + np.floor(beside / pp) + (extra > beside)
    middle = held + np.where(beside >= 1, np.floor((beside - 1) / pp) + 1, 0)
    last = held + np.where(beside >= pp - 1, np.floor((beside - (pp - 1)) / pp) + 1, 0)
    ahead = layouts.plan.mtp_layers
    if ahead:  # They count as a layer each, with embedding and head, and make room at the end.
        each = (model.layers + ahead + 2) / total
        fits = (each == np.floor(each)) & (total > 1)
        taken = np.minimum(ahead + 2, each)
        first = np.where(fits, each * layouts.virtual - (ahead + 2 - taken), first)
        middle = np.where(fits, each * layouts.virtual, middle)
        last = np.where(fits, each * layouts.virtual - taken, last)
    alone = pp == 1
    first = np.where(alone, model.layers, first)
    dense = model.dense_layers / model.layers

    def shape(layers: Floats, has_first: Floats, has_last: Floats) -> StageShape:
        return StageShape(layers * dense, layers * (1.0 - dense), has_first, has_last)

    ones = np.ones_like(pp, dtype=np.float64)
    whole = alone.astype(np.float64)
    return (
        shape(first, ones, whole),
        shape(np.where(pp > 2, middle, 0.0), 0.0 * ones, 0.0 * ones),
        shape(np.where(alone, 0.0, last), 0.0 * ones, np.where(alone, 0.0, 1.0)),
    )


@dataclass(frozen=True, slots=True)
class _RankWork:
    """One microbatch on a rank, all its chunks."""

    forward: Number
    input_gradient: Number
    weight_gradient: Number

    @property
    def total(self) -> Number:
        return self.forward + self.input_gradient + self.weight_gradient


def _pipeline(layouts: Layouts, shapes: tuple[StageShape, ...], works: list[StageWork]) -> Number:
    """Seconds from the first forward to the last gradient, by the schedule's formula."""
    plan, pp, virtual = layouts.plan, np.asarray(layouts.pp), np.asarray(layouts.virtual)
    micros = layouts.microbatches
    hop = hop_seconds(layouts)
    ranks = [
        _RankWork(
            work.part.forward_s + work.forward_data,
            work.part.input_gradient.total + work.part.recompute.total + work.backward_data,
            work.part.weight_gradient.total,
        )
        for work in works
    ]
    first, middle, last = (rank.total for rank in ranks)
    model_layers = float(layouts.job.model.layers)
    between = model_layers - shapes[0].layers - shapes[2].layers
    through = first + last + middle * between / np.maximum(shapes[1].layers, 1.0)
    fullest = np.maximum(np.maximum(first, last), middle)
    # A message that nothing hides keeps its sender: one a microbatch at the ends of the model, two between.
    blocked = 0.0 if plan.overlap_p2p else 1.0
    kept = blocked * hop * np.where(pp * virtual > 2, 2.0, 1.0) * virtual
    fullest = fullest + kept
    through = through + kept * pp
    plain = micros * fullest + (through - fullest) / virtual + 2.0 * (pp - 1.0) * hop
    schedule = plan.schedule
    if schedule not in ("zero-bubble", "dualpipe"):
        return np.where(pp > 1, plain, micros * first)
    forward, back, weight = (
        (first_part + last_part + mid * between / np.maximum(shapes[1].layers, 1.0)) / pp
        for first_part, mid, last_part in zip(
            *((r.forward, r.input_gradient, r.weight_gradient) for r in ranks), strict=True
        )
    )
    if schedule == "zero-bubble":
        drained = micros * fullest + (pp - 1.0) * (forward + back - weight)
        # With fewer microbatches than ranks, weight gradients do not fill the wait for the first one's return.
        found = np.maximum(drained, (pp + micros - 1.0) * (forward + back) + weight)
    else:
        bubble = (pp / 2.0 - 1.0) * (forward + 2.0 * back - weight)
        found = micros * np.maximum((first + last) / 2.0, middle) + bubble
    return np.where(pp > 1, found + 2.0 * (pp - 1.0) * hop, micros * first)
