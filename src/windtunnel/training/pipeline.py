"""A pipeline schedule played out: each rank runs its passes in order, as soon as their inputs are there.

The time of a step is that of its longest path. Past a warm-up the path grows by the same amount with
every group of microbatches, so long steps are played for a few groups and continued at that pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.specs.training import Schedule
from windtunnel.training.levels import levels_of
from windtunnel.training.schedule import Order, Pass, orders

PLAYED_GROUPS = 3
"""Groups of as many microbatches as ranks that are played before the pace is taken."""


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Seconds of one microbatch on one stage (a rank's chunk).

    Attributes:
        forward: the forward pass.
        input_gradient: recomputation and input gradients.
        weight_gradient: weight gradients.
    """

    forward: float
    input_gradient: float
    weight_gradient: float

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.input_gradient + self.weight_gradient


@dataclass(frozen=True, slots=True)
class Run:
    """One pass on the timeline of a rank."""

    rank: int
    kind: str
    stage: int
    microbatch: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Played:
    """What came out.

    Attributes:
        seconds: from the first forward to the last gradient.
        rank_end_s: when each rank is done.
        busy_s: how long each rank computes.
        runs: the timeline; only the played part when the rest was continued.
        whole: whether all microbatches were played.
    """

    seconds: float
    rank_end_s: tuple[float, ...]
    busy_s: tuple[float, ...]
    runs: tuple[Run, ...]
    whole: bool


def play(
    schedule: Schedule,
    stages: Sequence[StageSeconds],
    ranks: int,
    microbatches: int,
    *,
    hop_s: float = 0.0,
    whole: bool = False,
    timeline: bool = False,
) -> Played:
    """Play a step.

    Args:
        schedule: the order of passes.
        stages: seconds by stage along the model; their number is a multiple of the ranks.
        ranks: pipeline ranks.
        microbatches: per step.
        hop_s: from one rank's pass to its neighbour's, beside both.
        whole: play every microbatch, however many.
        timeline: keep every pass.
    """
    groups = PLAYED_GROUPS * max(ranks, 2)
    if whole or microbatches <= groups + ranks:
        return _once(schedule, stages, ranks, microbatches, hop_s, timeline)
    few = groups + microbatches % ranks
    step = max(ranks, 2) if schedule != "dualpipe" else 2 * ranks
    few += (microbatches - few) % step
    first = _once(schedule, stages, ranks, few, hop_s, timeline)
    more = few + step
    second = _once(schedule, stages, ranks, more, hop_s, False)
    times = (microbatches - few) / step
    return Played(
        seconds=first.seconds + times * (second.seconds - first.seconds),
        rank_end_s=tuple(a + times * (b - a) for a, b in zip(first.rank_end_s, second.rank_end_s, strict=True)),
        busy_s=tuple(a + times * (b - a) for a, b in zip(first.busy_s, second.busy_s, strict=True)),
        runs=first.runs,
        whole=False,
    )


def _once(
    schedule: Schedule, stages: Sequence[StageSeconds], ranks: int, microbatches: int, hop_s: float, timeline: bool
) -> Played:
    """All microbatches: level by level, or pass by pass where the passes are wanted or run jointly (DualPipe)."""
    chunks = len(stages) // ranks
    if timeline or (schedule == "dualpipe" and ranks > 1):
        order = orders(schedule, ranks, chunks, microbatches)
        return _played(order, stages, ranks, microbatches, hop_s, timeline)
    took = np.array([(one.forward, one.input_gradient, one.weight_gradient) for one in stages]).T
    took = np.vstack([took, took[1] + took[2]])
    done, busy = levels_of(schedule, ranks, chunks, microbatches).play(took, hop_s if ranks > 1 else 0.0)
    ends = tuple(done.tolist())
    return Played(max(ends), ends, tuple(busy.tolist()), (), True)


def _played(
    order: list[Order], stages: Sequence[StageSeconds], ranks: int, microbatches: int, hop_s: float, timeline: bool
) -> Played:
    count = len(stages)
    last = count - 1
    hop = hop_s if ranks > 1 else 0.0
    # When the output of a forward (gradient of a backward) pass reaches the next stage, by lane, stage, microbatch.
    sent = [[[-1.0] * microbatches for _ in range(count)] for _ in range(2)]
    back = [[[-1.0] * microbatches for _ in range(count)] for _ in range(2)]
    took = {
        "F": [one.forward for one in stages],
        "B": [one.input_gradient for one in stages],
        "W": [one.weight_gradient for one in stages],
        "X": [one.input_gradient + one.weight_gradient for one in stages],
    }
    clock, busy, at = [0.0] * ranks, [0.0] * ranks, [0] * ranks
    runs: list[Run] = []
    left = sum(len(one) for one in order)
    while left:
        before = left
        for rank in range(ranks):
            todo, i, now, used = order[rank], at[rank], clock[rank], 0.0
            size = len(todo)
            while i < size:
                kind, lane, stage, micro = todo[i]
                if kind == "O":
                    paired = todo[i + 1]
                    ready = sent[lane][stage - 1][micro] if stage else 0.0
                    other = _gradient_ready(paired, sent, back, last, hop)
                    if ready < 0.0 or other < 0.0:
                        break
                    start = max(ready, other, now)
                    middle = start + took["F"][stage]
                    now = middle + took["X"][paired[2]]
                    used += now - start
                    sent[lane][stage][micro] = back[paired[1]][paired[2]][paired[3]] = now + hop
                    if timeline:
                        runs.append(Run(rank, "F", stage, micro, start, middle))
                        runs.append(Run(rank, "X", paired[2], paired[3], middle, now))
                    i += 2
                    continue
                if kind == "F":
                    ready = sent[lane][stage - 1][micro] if stage else 0.0
                elif kind == "W":
                    ready = 0.0
                else:
                    ready = _gradient_ready(todo[i], sent, back, last, hop)
                if ready < 0.0:
                    break
                start = ready if ready > now else now
                spent = took[kind][stage]
                now = start + spent
                used += spent
                if kind == "F":
                    sent[lane][stage][micro] = now + hop
                elif kind != "W":
                    back[lane][stage][micro] = now + hop
                if timeline:
                    runs.append(Run(rank, kind, stage, micro, start, now))
                i += 1
            left -= i - at[rank]
            at[rank], clock[rank] = i, now
            busy[rank] += used
        assert left < before, "the schedule's passes wait for each other"
    return Played(max(clock), tuple(clock), tuple(busy), tuple(runs), True)


def _gradient_ready(
    one: Pass, sent: list[list[list[float]]], back: list[list[list[float]]], last: int, hop: float
) -> float:
    """When a backward pass may start; negative while its own forward or the next stage is not done."""
    _, lane, stage, micro = one
    if sent[lane][stage][micro] < 0.0:
        return -1.0
    return back[lane][stage + 1][micro] if stage < last else sent[lane][stage][micro] - hop
