"""A table of measured seconds over one or more sizes, interpolated between its points.

Between points the time is taken to be a straight line in the sizes themselves: a kernel's time is a
fixed part plus parts proportional to its rows, its context or its bytes, and such a sum is met exactly
by straight pieces (a straight line between logarithms would overshoot it by up to 6 % between points a
factor of two apart). The values at the points are met exactly, and what grows from point to point grows
in between.

Below the smallest size of an axis the time is that of the smallest: such kernels wait for their launch.
Beyond the largest nothing is known and the answer is nan. Grids may be ragged: each value of an axis
has its own values of the axes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Branch:
    """One axis of the grid below some fixed values of the axes before it."""

    keys: Floats
    children: tuple[_Branch, ...]
    seconds: Floats


Points: TypeAlias = Mapping[tuple[float, ...], float]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Seconds at the points of a grid.

    Attributes:
        axes: names of the sizes, in the order in which the grid nests.
        points: seconds by sizes.
        origin: what was measured, for `explain`, such as `attention.csv`.
    """

    axes: tuple[str, ...]
    points: Points
    origin: str
    _root: _Branch

    def __len__(self) -> int:
        return len(self.points)

    def at(self, *sizes: npt.ArrayLike) -> Floats:
        """Seconds at these sizes (arrays that broadcast together); nan beyond the largest measured ones."""
        arrays = np.broadcast_arrays(*(np.asarray(size, dtype=np.float64) for size in sizes))
        flat = np.stack([np.ravel(array) for array in arrays])
        return _interpolate(self._root, flat).reshape(arrays[0].shape)

    def largest(self, axis: str) -> float:
        """The largest size of an axis."""
        place = self.axes.index(axis)
        return max(point[place] for point in self.points)

    def values(self, axis: str) -> list[float]:
        """All sizes of an axis, ascending."""
        place = self.axes.index(axis)
        return sorted({point[place] for point in self.points})


def table(axes: Sequence[str], points: Points, origin: str) -> Table:
    """A table from its points, at least one."""
    assert points, f"{origin} has no points"
    return Table(tuple(axes), points, origin, _branch(sorted(points.items()), 0, len(axes)))


def _branch(rows: list[tuple[tuple[float, ...], float]], depth: int, axes: int) -> _Branch:
    keys = np.array(sorted({sizes[depth] for sizes, _ in rows}))
    if depth == axes - 1:
        return _Branch(keys, (), np.array([seconds for _, seconds in rows]))
    below = [_branch([row for row in rows if row[0][depth] == key], depth + 1, axes) for key in keys]
    return _Branch(keys, tuple(below), np.zeros(0))


def _interpolate(branch: _Branch, sizes: Floats) -> Floats:
    """Seconds for columns of sizes, outermost axis first."""
    own = sizes[0]
    keys = branch.keys
    if not branch.children:
        found = np.interp(own, keys, branch.seconds)
        return np.where(own > keys[-1], np.nan, found)
    out = np.full(own.shape, np.nan)
    lower = np.clip(np.searchsorted(keys, own, side="right") - 1, 0, len(keys) - 1)
    for place in np.unique(lower):
        mine = np.flatnonzero(lower == place)
        below = _interpolate(branch.children[place], sizes[1:, mine])
        if place + 1 < len(keys):
            part = np.clip((own[mine] - keys[place]) / (keys[place + 1] - keys[place]), 0.0, 1.0)
            between = np.flatnonzero(part > 0.0)
            if len(between):
                above = _interpolate(branch.children[place + 1], sizes[1:, mine[between]])
                below[between] += part[between] * (above - below[between])
        else:
            below = np.where(own[mine] > keys[place], np.nan, below)
        out[mine] = below
    return out
