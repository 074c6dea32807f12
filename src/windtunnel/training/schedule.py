"""Pipeline schedules as the order of passes on every rank.

    GPipe         arXiv:1811.06965   all forward, then all backward
    1F1B          arXiv:1806.03377, arXiv:2104.04473   warm up, one forward one backward, drain
    interleaved   arXiv:2104.04473   the same over several chunks per rank
    zero bubble   arXiv:2401.10241 (ZB-H1)   weight gradients put off to fill the drain
    DualPipe      arXiv:2412.19437   microbatches enter from both ends; each rank holds two stages

A pass is (kind, lane, stage, microbatch): `F` forward, `B` input gradient, `W` weight gradient, `X`
both gradients at once, `O` a forward that runs together with the `X` after it. Lanes are the two
directions of DualPipe; other schedules use lane 0. Stage counts chunks along the model, so that
rank = stage modulo ranks.
"""

from __future__ import annotations

from typing import Literal

from windtunnel.specs.training import Schedule

Pass = tuple[Literal["F", "B", "W", "X", "O"], int, int, int]
Order = list[Pass]


def orders(schedule: Schedule, ranks: int, chunks: int, microbatches: int) -> list[Order]:
    """The order of passes on each rank.

    Args:
        schedule: which.
        ranks: pipeline ranks.
        chunks: model chunks per rank (interleaved only).
        microbatches: per step.
    """
    if schedule == "gpipe":
        return [_gpipe(rank, microbatches) for rank in range(ranks)]
    if schedule == "interleaved":
        return [_interleaved(rank, ranks, chunks, microbatches) for rank in range(ranks)]
    if schedule == "zero-bubble":
        return [_zero_bubble(rank, ranks, microbatches) for rank in range(ranks)]
    if schedule == "dualpipe":
        return [_dual(rank, ranks, microbatches) for rank in range(ranks)]
    return [_one_forward_one_backward(rank, ranks, microbatches) for rank in range(ranks)]


def _gpipe(rank: int, microbatches: int) -> Order:
    forward: Order = [("F", 0, rank, i) for i in range(microbatches)]
    return forward + [("X", 0, rank, i) for i in range(microbatches)]


def _one_forward_one_backward(rank: int, ranks: int, microbatches: int) -> Order:
    forward: Order = [("F", 0, rank, i) for i in range(microbatches)]
    backward: Order = [("X", 0, rank, i) for i in range(microbatches)]
    return _woven(forward, backward, ranks - rank - 1)


def _interleaved(rank: int, ranks: int, chunks: int, microbatches: int) -> Order:
    forward: Order = []
    backward: Order = []
    for start in range(0, microbatches, ranks):
        group = range(start, min(start + ranks, microbatches))
        for chunk in range(chunks):
            forward += [("F", 0, chunk * ranks + rank, i) for i in group]
            backward += [("X", 0, (chunks - 1 - chunk) * ranks + rank, i) for i in group]
    first = min(ranks, microbatches)
    return _woven(forward, backward, (ranks - rank - 1) * 2 + (chunks - 1) * first)


def _woven(forward: Order, backward: Order, warm: int) -> Order:
    """`warm` forwards, then one forward and one backward in turn, then what is left."""
    warm = min(warm, len(forward))
    order = forward[:warm]
    rest = forward[warm:]
    for i, back in enumerate(backward):
        if i < len(rest):
            order.append(rest[i])
        order.append(back)
    return order


def _zero_bubble(rank: int, ranks: int, microbatches: int) -> Order:
    """ZB-H1: rank r puts its weight gradients off by r microbatches, which fills its drain."""
    warm = min(ranks - rank - 1, microbatches)
    order: Order = [("F", 0, rank, i) for i in range(warm)]
    for i in range(microbatches):
        if warm + i < microbatches:
            order.append(("F", 0, rank, warm + i))
        order.append(("B", 0, rank, i))
        if i >= rank:
            order.append(("W", 0, rank, i - rank))
    return order + [("W", 0, rank, i) for i in range(max(microbatches - rank, 0), microbatches)]


class _DualRank:
    """Passes of one DualPipe rank; each lane's next forward and backward microbatch is counted."""

    def __init__(self, rank: int, ranks: int, microbatches: int) -> None:
        self.order: Order = []
        self.stages = (rank, ranks - 1 - rank)
        # Ranks of the second half see the other lane first.
        self.flip = rank >= ranks // 2
        each = microbatches - microbatches // 2
        self.limits = (each, microbatches // 2)
        self.forwards, self.backwards = [0, 0], [0, 0]
        self.put_off: list[Pass] = []

    def _lane(self, side: int) -> int:
        return side ^ int(self.flip)

    def forward(self, side: int, *, overlapped: bool = False) -> None:
        lane = self._lane(side)
        if self.forwards[lane] < self.limits[lane]:
            self.order.append(("O" if overlapped else "F", lane, self.stages[lane], self.forwards[lane]))
            self.forwards[lane] += 1

    def both(self, side: int) -> None:
        """A forward of one lane together with a backward of the other."""
        other = self._lane(1 - side)
        self.forward(side, overlapped=self.backwards[other] < self.limits[other])
        self.backward(1 - side)

    def backward(self, side: int, *, split: bool = False) -> None:
        lane = self._lane(side)
        if self.backwards[lane] >= self.limits[lane]:
            return
        done = self.backwards[lane]
        self.backwards[lane] += 1
        self.order.append(("B" if split else "X", lane, self.stages[lane], done))
        if split:
            self.put_off.append(("W", lane, self.stages[lane], done))

    def weights(self) -> None:
        if self.put_off:
            self.order.append(self.put_off.pop(0))


def _dual(rank: int, ranks: int, microbatches: int) -> Order:
    """DualPipe's eight phases, by a rank's distance from the nearer end."""
    half, near = ranks // 2, min(rank, ranks - 1 - rank)
    inner = half - near - 1
    r = _DualRank(rank, ranks, microbatches)
    for _ in range(2 * inner):
        r.forward(0)
    for _ in range(near + 1):
        r.forward(0)
        r.forward(1)
    for _ in range(inner):
        r.backward(1, split=True)
        r.weights()
        r.forward(1)
    for _ in range(max(microbatches // 2 - ranks + near + 1, 0)):
        r.both(0)
        r.both(1)
    for _ in range(inner):
        r.backward(1)
        r.both(1)
    for i in range(near + 1):
        late = 2 * i >= near + 1
        r.backward(1, split=late)
        r.backward(0, split=late)
    for _ in range(inner):
        r.weights()
        r.backward(0, split=True)
    while r.put_off:
        r.weights()
    return r.order


def bubble_seconds(
    schedule: Schedule, ranks: int, chunks: int, forward_s: float, input_s: float, weight_s: float
) -> float:
    """Idle time of a rank on uniform stages without messages, as the schedules' papers give it.

    Args:
        schedule: which.
        ranks: pipeline ranks.
        chunks: chunks per rank.
        forward_s, input_s, weight_s: one microbatch on one rank, all its chunks together.
    """
    both = input_s + weight_s
    if schedule == "zero-bubble":
        return (ranks - 1) * (forward_s + input_s - weight_s)
    if schedule == "dualpipe":
        return (ranks / 2 - 1) * (forward_s + both + both - 3.0 * weight_s)
    return (ranks - 1) * (forward_s + both) / chunks
