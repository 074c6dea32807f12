"""Which kernels are timed in one go: on a processor those of a layer, in turn, as an engine runs them.

A processor's caches hold what ran last. A kernel that is repeated alone therefore runs faster than in a layer, where
nine others lie between two of its executions: here small ones by up to a third, large ones by a tenth.
On an accelerator a kernel's time hardly depends on the one before it, and waiting for each would measure the wait.
"""

from __future__ import annotations

from collections.abc import Iterator

from windtunnel.live.profile.points import Point
from windtunnel.live.profile.timing import Timed, timed, timed_in_turn
from windtunnel.live.profile.torch_kernels import Run, TorchKernels

Group = tuple[list[Point], list[Point]]
"""(points whose time is wanted, other kernels that run before them in each round)."""


def groups_of(points: list[Point], in_turn: bool) -> Iterator[Group]:
    """Points in the order in which they are measured.

    Args:
        points: all of them.
        in_turn: time the kernels of a layer one after the other; attention of each context, and what a step runs once,
            in a layer of their own. Otherwise every point alone.
    """
    if not in_turn:
        yield from (([point], []) for point in points)
        return
    for rows in sorted({point.rows for point in points}):
        mine = [point for point in points if point.rows == rows]
        layer = [point for point in mine if not point.once and point.key[0] != "attention"]
        if layer:
            yield layer, []
        yield from (([point], layer) for point in mine if point not in layer)


class Turns:
    """Measures groups of points, keeping a layer's tensors while its rows stay the same."""

    def __init__(self, kernels: TorchKernels, in_turn: bool) -> None:
        self.kernels, self.in_turn = kernels, in_turn
        self._layer: tuple[list[Point], list[Run]] = [], []

    def measured(self, wanted: list[Point], layer: list[Point]) -> list[Timed]:
        """The times of the wanted points."""
        if not self.in_turn:
            return [timed(self.kernels.kernel(point), self.kernels.finish) for point in wanted]
        before = self._runs(layer) if layer else []
        own = [self.kernels.kernel(point) for point in wanted] if layer else self._runs(wanted)
        return timed_in_turn([*before, *own])[len(before) :]

    def _runs(self, layer: list[Point]) -> list[Run]:
        if self._layer[0] != layer:
            self._layer = [], []  # the old tensors go before the new ones come
            self._layer = layer, [self.kernels.kernel(point) for point in layer]
        return self._layer[1]
