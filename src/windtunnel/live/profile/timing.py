"""Time a kernel on a machine that others use too: warm-up, blocks, medians, and a second look at noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK_S = 1e-3
"""Executions are timed in blocks of at least this length, so that the clock's grain does not count."""
BLOCKS = 20
ROUNDS = 3
CALM = 0.1
"""The median of the calmest tenth of the blocks is taken: another process only ever adds time, and a kernel of
several threads waits for whole time slices of the scheduler when one of its cores is taken away."""
NOISY = 0.3
"""A round whose calm tenth spreads by more than this (largest less smallest, over the median) is repeated."""
LONG_S = 0.25
"""An execution that takes longer is timed one by one, with fewer blocks."""
WARM_UP = 5


@dataclass(frozen=True, slots=True)
class Timed:
    """A timing.

    Attributes:
        seconds: time of one execution, the median over the calmest tenth of the blocks.
        spread: 90th less 10th percentile of all blocks over that time: how disturbed the machine was.
        samples: executions timed.
    """

    seconds: float
    spread: float
    samples: int

    def beside(self, other: Timed) -> Timed:
        """This timing and one of the same kernel at another time, together: the calmer one's seconds.

        The spread is of both: how far the higher end of either lies above what counts.
        """
        seconds = min(self.seconds, other.seconds)
        highest = max(one.seconds * (1.0 + one.spread) for one in (self, other))
        return Timed(seconds, highest / seconds - 1.0 if seconds > 0 else 0.0, self.samples + other.samples)


def timed(
    run: Callable[[], object],
    finish: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timed:
    """Time a function.

    Args:
        run: one execution; on an accelerator it may return before the work is done.
        finish: waits for the accelerator.
        clock: seconds.
    """
    once_s = _warm_up(run, finish, clock)
    repeat = max(1, int(np.ceil(BLOCK_S / max(once_s, 1e-9))))
    blocks = BLOCKS if once_s < LONG_S else 3
    seconds = np.zeros(0)
    for _ in range(ROUNDS):
        seconds = np.sort(np.concatenate([seconds, _round(run, finish, clock, repeat, blocks)]))
        calm = seconds[: max(int(CALM * len(seconds)), 1)]
        if calm[-1] - calm[0] <= NOISY * np.median(calm):
            break
    middle = float(np.median(calm))
    low, high = np.quantile(seconds, [0.1, 0.9])
    return Timed(middle, float((high - low) / middle) if middle > 0 else 0.0, repeat * len(seconds))


def timed_in_turn(runs: Sequence[Callable[[], object]], clock: Callable[[], float] = time.perf_counter) -> list[Timed]:
    """Time functions that run one after the other, each in the state in which those before it leave the processor.

    A kernel alone finds its code, its input and its output in the caches from its last execution. In a layer others
    have run in between, which costs small kernels up to a half more, and large ones a tenth. So whole rounds
    of all functions are timed; those of the calmest blocks of rounds count.

    Args:
        runs: one execution each; every one returns when its work is done.
        clock: seconds.
    """

    def once() -> None:
        for run in runs:
            run()

    once_s = _warm_up(once, lambda: None, clock)
    repeat = max(1, int(np.ceil(BLOCK_S / max(once_s, 1e-9))))
    blocks = BLOCKS if once_s < LONG_S else 3
    found = np.zeros((0, len(runs)))
    for _ in range(ROUNDS):
        found = np.concatenate([found, _turns(runs, clock, repeat, blocks)])
        order = np.argsort(found.sum(axis=1), kind="stable")
        whole = found.sum(axis=1)[order]
        calm = order[: max(int(CALM * len(order)), 1)]
        if whole[len(calm) - 1] - whole[0] <= NOISY * np.median(whole[: len(calm)]):
            break
    seconds = np.median(found[calm], axis=0)
    low, high = np.quantile(whole, [0.1, 0.9])
    spread = float((high - low) / np.median(whole[: len(calm)])) if whole[0] > 0 else 0.0
    return [Timed(float(one), spread, repeat * len(found)) for one in seconds]


def _turns(
    runs: Sequence[Callable[[], object]], clock: Callable[[], float], repeat: int, blocks: int
) -> npt.NDArray[np.float64]:
    """Seconds of one execution of each function, the mean over the rounds of a block, shape (blocks, functions)."""
    seconds = np.zeros((blocks, len(runs)))
    for block in range(blocks):
        for _ in range(repeat):
            for place, run in enumerate(runs):
                start_s = clock()
                run()
                seconds[block, place] += clock() - start_s
    return seconds / repeat


def _warm_up(run: Callable[[], object], finish: Callable[[], None], clock: Callable[[], float]) -> float:
    """Run a few times for caches, compilers and clocks; returns the shortest execution's seconds."""
    shortest_s = np.inf
    for _ in range(WARM_UP):
        start_s = clock()
        run()
        finish()
        shortest_s = min(shortest_s, clock() - start_s)
        if shortest_s > LONG_S:
            break
    return float(shortest_s)


def _round(
    run: Callable[[], object], finish: Callable[[], None], clock: Callable[[], float], repeat: int, blocks: int
) -> npt.NDArray[np.float64]:
    """Seconds of one execution in each of so many blocks."""
    seconds = np.empty(blocks)
    for block in range(blocks):
        start_s = clock()
        for _ in range(repeat):
            run()
        finish()
        seconds[block] = (clock() - start_s) / repeat
    return seconds
