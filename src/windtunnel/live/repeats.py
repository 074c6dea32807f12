"""Several runs of one load beside their predictions: what of the gap is noise, and what is error.

The machine's noise makes runs of one load differ, the prediction's error is what all of them share. So the error is
that of the median run, which a few disturbed ones do not move, and beside it stands by how much the runs leave that
median open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.live.compare import Comparison

NORMAL_80 = 1.2816
"""Standard errors to either side of an 80 % interval."""
OF_MEDIAN = 1.2533
"""Standard error of a median over that of the mean, for normal scatter: sqrt(pi / 2)."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """One figure, measured in several runs of a load and predicted for each.

    Attributes:
        name: as of `Figure`.
        measured: its value in each run.
        predicted: the median prediction; low, high: the ends of the predictions' 80 % intervals, the widest of all
            runs, nan for predictions that came as a table.
    """

    name: str
    measured: tuple[float, ...]
    predicted: float
    low: float
    high: float

    @property
    def middle(self) -> float:
        """The median run."""
        return float(np.median(self.measured))

    @property
    def error(self) -> float:
        """Prediction over the median run, less one."""
        return self.predicted / self.middle - 1.0 if self.middle else float("nan")

    @property
    def noise(self) -> float:
        """The largest run over the smallest, less one."""
        return max(self.measured) / min(self.measured) - 1.0 if min(self.measured) > 0 else float("nan")

    @property
    def left_open(self) -> float:
        """How well the runs tell their median: half of its 80 % interval, as a share."""
        if len(self.measured) < 2 or min(self.measured) <= 0:
            return float("nan")
        scatter = float(np.log(self.measured).std(ddof=1))
        return NORMAL_80 * OF_MEDIAN * scatter / float(np.sqrt(len(self.measured)))

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "measured": list(self.measured), "median": self.middle, "noise": self.noise, "left_open": self.left_open,
            "predicted": self.predicted, "predicted_low": self.low, "predicted_high": self.high, "error": self.error,
        }  # fmt: skip


def repeated(comparisons: Sequence[Comparison]) -> tuple[Repeated, ...]:
    """The figures of several runs of one load, in the order of their comparisons."""
    found = []
    for name in (figure.name for figure in comparisons[0].figures):
        seen = [one.figure(name) for one in comparisons]
        found.append(
            Repeated(
                name,
                tuple(one.measured for one in seen),
                float(np.median([one.predicted for one in seen])),
                min(one.predicted_low for one in seen),
                max(one.predicted_high for one in seen),
            )
        )
    return tuple(found)


def middle_run(comparisons: Sequence[Comparison]) -> int:
    """Which run is the median one by its mean end-to-end latency (of two such, the faster)."""
    order = np.argsort([one.figure("e2e_mean_s").measured for one in comparisons], kind="stable")
    return int(order[(len(order) - 1) // 2])
