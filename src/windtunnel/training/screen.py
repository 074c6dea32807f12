"""All layouts of a question at once: which fit in memory, and their time and energy in closed form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.training.closed_form import step_costs
from windtunnel.training.memory_fits import peak_bytes
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.space import MANY, Table, divided, flag_sets, runnable, table_of, thinned

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int, str], None]
"""Called with (done, all, what is being looked at)."""


@dataclass(frozen=True, slots=True)
class Block:
    """The layouts of one cluster and one set of flags that fit.

    Attributes:
        job: the cluster, with the flags as its plan.
        table: their degrees.
        seconds, joules: a step in closed form, without what offloading adds.
        bytes: memory of the fullest rank.
    """

    job: TrainingJob
    table: Table
    seconds: Floats
    joules: Floats
    bytes: Floats

    def layout(self, i: int) -> TrainingJob:
        """One of them as a job."""
        return self.job.model_copy(update={"plan": self.table.plan(self.job.plan, i)})


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster with its layouts and the sets of flags to try."""

    job: TrainingJob
    table: Table
    flags: list[TrainingPlan]


@dataclass(slots=True)
class Screened:
    """What the closed form says about a question.

    Attributes:
        clusters: every cluster with the layouts that were looked at.
        blocks: layouts that fit, by cluster and flags.
        degrees, valid, fit: as in `Counts`.
        invalid: layouts whose batch does not divide, by reason.
        least_copies: the fewest data-parallel ranks of any layout.
        least: memory of the layout that takes least, and that layout; None before any was looked at.
        thinned: whether large tables were thinned out.
    """

    clusters: list[Cluster] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    degrees: int = 0
    valid: int = 0
    fit: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    least_copies: int = 0
    least: tuple[float, TrainingJob] | None = None
    thinned: bool = False


def screen(question: TrainingQuestion, *, offload: bool = False, progress: Progress | None = None) -> Screened:
    """Look at every layout of a question.

    Args:
        question: what is asked.
        offload: only layouts that keep optimiser states outside the accelerators.
        progress: called cluster by cluster and flags by flags.
    """
    found = Screened()
    found.clusters += _clusters(question, found, offload)
    total, done = sum(len(cluster.flags) for cluster in found.clusters), 0
    for cluster in found.clusters:
        whole: dict[TrainingPlan, npt.NDArray[np.bool_]] = {}
        for flags in cluster.flags:
            _look(question, cluster, flags, whole, found)
            done += 1
            if progress is not None and (done % 8 == 0 or done == total):
                progress(done, total, f"{cluster.job.gpus:,} x {cluster.job.accelerator.name}, every layout")
    return found


def _clusters(question: TrainingQuestion, found: Screened, offload: bool) -> Iterator[Cluster]:
    """Every cluster with the layouts whose batch divides; what does not is counted."""
    for job in question.clusters:
        table = table_of(job, question.features, question.wanted)
        flags = list(flag_sets(question, job, offload=offload))
        copies = job.gpus // (table.tp * table.pp * table.cp)
        found.least_copies = min(found.least_copies or job.gpus, int(copies.min(initial=job.gpus)))
        good = np.ones(len(table), dtype=np.bool_)
        for reason, holds in divided(table, job).items():
            found.invalid[reason] += int((good & ~holds).sum())
            good &= holds
        found.degrees += len(table)
        table = table.take(good)
        if sum(int(runnable(table, one, question, job).sum()) for one in flags) > MANY:
            table, found.thinned = thinned(table, job.model.layers), True
        yield Cluster(job, table, flags)


def _look(
    question: TrainingQuestion,
    cluster: Cluster,
    flags: TrainingPlan,
    whole: dict[TrainingPlan, npt.NDArray[np.bool_]],
    found: Screened,
) -> None:
    """Screen one set of flags; `whole` keeps which layouts fit when everything is computed again."""
    job, table = cluster.job.model_copy(update={"plan": flags}), cluster.table
    good = runnable(table, flags, question, cluster.job)
    found.valid += int(good.sum())
    # Recomputation only takes memory off, so what does not fit with all of it need not be looked at again.
    family = flags.model_copy(update={"recompute": "full"})
    if flags.recompute != "full" and not flags.recompute_layers and family in whole:
        good &= whole[family]
    mine = table.take(good)
    if not len(mine):
        whole.setdefault(family, good)
        return
    peak = peak_bytes(job, mine.degrees())
    fits = peak <= job.accelerator.memory_bytes
    if flags.recompute == "full":
        whole[family] = good.copy()
        whole[family][good] = fits
    i = int(np.argmin(peak))
    if found.least is None or peak[i] < found.least[0]:
        found.least = (float(peak[i]), job.model_copy(update={"plan": mine.plan(flags, i)}))
    if not fits.any():
        return
    mine = mine.take(fits)
    found.fit += len(mine)
    costs = step_costs(job, mine.degrees())
    found.blocks.append(Block(job, mine, costs.seconds, costs.joules, peak[fits]))
