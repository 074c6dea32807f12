"""A pipeline schedule as levels: passes that wait for nothing of their own level, so that each level is one array.

Which pass waits for which depends on the order of passes alone, not on how long they take. So the levels of a
schedule are found once and kept; playing it is then one maximum and one sum per level, for all ranks together.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.specs.training import Schedule
from windtunnel.training.schedule import Order, orders

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
KINDS = "FBWX"

_KNOWN: OrderedDict[tuple[object, ...], Levels] = OrderedDict()
_MOST_PASSES = 4_000_000
"""Passes of schedules that are kept, about 20 bytes each."""


@dataclass(frozen=True, slots=True)
class Levels:
    """Passes sorted by level. One more entry at the end stands for "nothing": it is done at 0.

    Attributes:
        work: kind x stages + stage of every pass: which duration it takes.
        rank: pipeline rank of every pass.
        before: the pass before it on its rank.
        input: the pass whose output it needs.
        sent: whether that output comes from another stage.
        starts: where each level begins, and the number of passes.
        last: the last pass of every rank.
    """

    work: Ints
    rank: Ints
    before: Ints
    input: Ints
    sent: npt.NDArray[np.bool_]
    starts: tuple[int, ...]
    last: Ints

    def play(self, took: Floats, hop_s: float) -> tuple[Floats, Floats]:
        """(when each rank is done, how long it works) for durations by kind and stage.

        Args:
            took: seconds, shape (kinds, stages).
            hop_s: from one stage to the next.
        """
        spent = took.reshape(-1)[self.work]
        hops = np.where(self.sent, hop_s, 0.0)
        done = np.zeros(len(spent) + 1)
        before, needed = self.before, self.input
        for begin, end in zip(self.starts, self.starts[1:], strict=False):
            ready = done[needed[begin:end]]
            ready += hops[begin:end]
            np.maximum(ready, done[before[begin:end]], out=ready)
            ready += spent[begin:end]
            done[begin:end] = ready
        busy = np.bincount(self.rank, weights=spent, minlength=len(self.last)).astype(np.float64)
        return done[self.last], busy


def levels_of(schedule: Schedule, ranks: int, chunks: int, microbatches: int) -> Levels:
    """The levels of a schedule; DualPipe has none: its joint passes are played one by one."""
    key = (schedule, ranks, chunks, microbatches)
    found = _KNOWN.get(key)
    if found is None:
        found = _KNOWN[key] = _levels(orders(schedule, ranks, chunks, microbatches), ranks * chunks, microbatches)
        while sum(len(one.work) for one in _KNOWN.values()) > _MOST_PASSES and len(_KNOWN) > 1:
            _KNOWN.popitem(last=False)
    else:
        _KNOWN.move_to_end(key)
    return found


def _levels(order: list[Order], stages: int, microbatches: int) -> Levels:
    """Number the passes as they are listed, find each one's level, and sort by it."""
    count = sum(len(one) for one in order)
    kind, stage, rank, needed, before = (np.empty(count, dtype=np.int32) for _ in range(5))
    forward = np.full((stages, microbatches), count, dtype=np.int32)
    backward = np.full((stages, microbatches), count, dtype=np.int32)
    at, last = 0, []
    for r, todo in enumerate(order):
        here = slice(at, at + len(todo))
        names, _, stage[here], micro = zip(*todo, strict=True)
        codes = kind[here] = np.array([KINDS.index(name) for name in names], dtype=np.int32)
        index, where = np.arange(at, at + len(todo), dtype=np.int32), (stage[here], np.array(micro))
        for codes_of, table in (((0,), forward), ((1, 3), backward)):
            mine = np.isin(codes, codes_of)
            table[where[0][mine], where[1][mine]] = index[mine]
        rank[here], needed[here] = r, where[1]
        before[here] = index - 1
        before[at] = count
        at += len(todo)
        last.append(at - 1)
    micro_of, sent = needed.copy(), np.zeros(count, dtype=np.bool_)
    gradient = (kind == 1) | (kind == 3)
    inside, ends = gradient & (stage < stages - 1), gradient & (stage == stages - 1)
    fed = (kind == 0) & (stage > 0)
    needed[:] = count
    needed[fed] = forward[stage[fed] - 1, micro_of[fed]]
    needed[inside] = backward[stage[inside] + 1, micro_of[inside]]
    needed[ends] = forward[stage[ends], micro_of[ends]]
    sent[fed | inside] = True
    return _sorted(kind * stages + stage, rank, before, needed, sent, np.array(last, dtype=np.int32))


def _sorted(work: Ints, rank: Ints, before: Ints, needed: Ints, sent: npt.NDArray[np.bool_], last: Ints) -> Levels:
    """The passes in order of their levels."""
    count = len(work)
    level = _level_of(before.tolist(), needed.tolist(), rank.tolist(), len(last))
    by_level = np.argsort(level, kind="stable").astype(np.int32)
    place = np.empty(count + 1, dtype=np.int32)
    place[by_level] = np.arange(count, dtype=np.int32)
    place[count] = count
    starts = np.flatnonzero(np.diff(level[by_level], prepend=-1)).tolist()
    return Levels(
        work[by_level],
        rank[by_level],
        place[before[by_level]],
        place[needed[by_level]],
        sent[by_level],
        (*starts, count),
        place[last],
    )


def _level_of(before: list[int], needed: list[int], rank: list[int], ranks: int) -> Ints:
    """The level of every pass: one above those that it waits for."""
    count = len(before)
    level = [-1] * count + [0]
    begins = [0] * ranks
    for i in range(count - 1, -1, -1):
        begins[rank[i]] = i
    ends = [*begins[1:], count]
    left = count
    while left:
        moved = left
        for r in range(ranks):
            i, end = begins[r], ends[r]
            above = level[before[i]] if i < end else 0
            while i < end:
                other = level[needed[i]]
                if other < 0:
                    break
                above = (other if other > above else above) + 1
                level[i] = above
                i += 1
            left -= i - begins[r]
            begins[r] = i
        assert left < moved, "the schedule's passes wait for each other"
    return np.array(level[:count], dtype=np.int32)
