"""Pareto fronts: which candidates no other beats in everything at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def pareto_front(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows that no other row dominates, all columns to be small.

    A row dominates another when it is nowhere larger and somewhere smaller. Rows with a value that is not
    finite are never on the front.

    Args:
        values: shape (candidates, goals).

    >>> pareto_front(np.array([[1.0, 3.0], [2.0, 1.0], [2.0, 4.0]])).tolist()
    [0, 1]
    """
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    front = []
    for i in rows:
        others = values[rows]
        dominated = ((others <= values[i]).all(axis=1) & (others < values[i]).any(axis=1)).any()
        if not dominated:
            front.append(i)
    return np.array(front, dtype=np.int64)
