"""All layouts of a question at once: which fit in memory, and their time and energy in closed form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.training.closed_form import step_costs
from windtunnel.training.memory_fits import peak_bytes
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.space import MANY, Mask, Table, divided, flag_sets, runnable, table_of, thinned

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
    found.clusters += _clusters(question, offload, found)
    total, done = sum(len(cluster.flags) for cluster in found.clusters), 0
    for cluster in found.clusters:
        known = _Memory()
        for flags in cluster.flags:
            _look(question, cluster, flags, known, found)
            done += 1
            if progress is not None and (done % 8 == 0 or done == total):
                progress(done, total, f"{cluster.job.gpus:,} x {cluster.job.accelerator.name}, every layout")
    return found


def _clusters(question: TrainingQuestion, offload: bool, found: Screened) -> list[Cluster]:
    """Every cluster with the layouts whose batch divides; what does not is counted."""
    clusters = []
    for job in question.clusters:
        table = table_of(job, question.features, question.wanted)
        copies = job.gpus // (table.tp * table.pp * table.cp)
        found.least_copies = min(found.least_copies or job.gpus, int(copies.min(initial=job.gpus)))
        good = np.ones(len(table), dtype=np.bool_)
        for reason, holds in divided(table, job).items():
            found.invalid[reason] += int((good & ~holds).sum())
            good &= holds
        found.degrees += len(table)
        clusters.append(Cluster(job, table.take(good), list(flag_sets(question, job, offload=offload))))
    layouts = sum(int(runnable(one.table, flags, question, one.job).sum()) for one in clusters for flags in one.flags)
    if layouts > MANY:
        found.thinned = True
        clusters = [replace(one, table=thinned(one.table, one.job.model.layers)) for one in clusters]
    return clusters


@dataclass(slots=True)
class _Memory:
    """Memory of a cluster's layouts that is known already.

    Attributes:
        peaks: bytes of every layout, nan where not looked at, by the flags that memory depends on.
        whole: which layouts fit when everything is computed again, by those flags.
    """

    peaks: dict[TrainingPlan, Floats] = field(default_factory=dict)
    whole: dict[TrainingPlan, Mask] = field(default_factory=dict)

    def look(self, job: TrainingJob, table: Table, flags: TrainingPlan, good: Mask) -> Floats:
        """Bytes of the layouts that are asked for; infinite where they cannot fit, nan elsewhere."""
        # What runs beside what does not change what is alive.
        key = flags.model_copy(update={"tp_overlap": False})
        family = key.model_copy(update={"recompute": "full"})
        peaks = self.peaks.setdefault(key, np.full(len(table), np.nan))
        missing = good & np.isnan(peaks)
        # Recomputation only takes memory off: what does not fit with all of it does not fit with less.
        if flags.recompute != "full" and not flags.recompute_layers and family in self.whole:
            peaks[missing & ~self.whole[family]] = np.inf
            missing &= self.whole[family]
        if missing.any():
            peaks[missing] = peak_bytes(job, table.take(missing).degrees())
        if flags.recompute == "full":
            self.whole[family] = np.isnan(peaks) | (peaks <= job.accelerator.memory_bytes)
        return peaks


def _look(question: TrainingQuestion, cluster: Cluster, flags: TrainingPlan, known: _Memory, found: Screened) -> None:
    """Screen one set of flags."""
    job, table = cluster.job.model_copy(update={"plan": flags}), cluster.table
    good = runnable(table, flags, question, cluster.job)
    found.valid += int(good.sum())
    if not good.any():
        return
    peaks = np.where(good, known.look(job, table, flags, good), np.inf)
    i = int(np.argmin(peaks))
    if np.isfinite(peaks[i]) and (found.least is None or peaks[i] < found.least[0]):
        found.least = (float(peaks[i]), job.model_copy(update={"plan": table.plan(flags, i)}))
    fits = peaks <= job.accelerator.memory_bytes
    if not fits.any():
        return
    mine = table.take(fits)
    found.fit += len(mine)
    costs = step_costs(job, mine.degrees())
    found.blocks.append(Block(job, mine, costs.seconds, costs.joules, peaks[fits]))
