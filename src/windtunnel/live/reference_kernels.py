"""A fixed piece of work of each kind that a server does, timed: a script of its own, for any Python that has NumPy.

`python reference_kernels.py` prints one JSON object. It imports nothing of this package, so that the very Python that
measured a profile can run it again later; it wants a process of its own, with one thread for NumPy's products.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable

import numpy as np

BUDGET_S = 0.5
CALM = 0.1
"""As kernels are timed: the median of the calmest tenth, for a moment's disturbance only ever adds time."""
PRODUCT = 320
"""Side of a square product in 32 bits: its three matrices (1.2 MB) stay in a core's own cache."""
READ_BYTES = 128 * 2**20
"""More than a processor's caches hold, so that it is the memory that is read."""
CALLS = 400


def product() -> Callable[[], object]:
    """A product bound by arithmetic."""
    random = np.random.default_rng(0)
    x, y = (random.random((PRODUCT, PRODUCT), dtype=np.float32) for _ in range(2))
    out = np.empty_like(x)
    return lambda: np.matmul(x, y, out=out)


def read() -> Callable[[], object]:
    """A read bound by memory."""
    values = np.ones(READ_BYTES // 8)
    return values.max


def host() -> Callable[[], object]:
    """What an engine's Python does between kernels: objects, dictionaries, and calls of the smallest kernel."""
    small = np.zeros(1)

    def run() -> object:
        seen: dict[int, list[int]] = {}
        for i in range(CALLS):
            seen.setdefault(i % 32, []).append(i)
            np.add(small, 1.0, out=small)
        return seen

    return run


WORK: dict[str, Callable[[], Callable[[], object]]] = {"product": product, "read": read, "host": host}


def measure(budget_s: float = BUDGET_S, clock: Callable[[], float] = time.perf_counter) -> dict[str, dict[str, float]]:
    """Seconds of one execution of each piece, and by how much executions differ: 90th less 10th percentile over it.

    The pieces take turns, so that a moment's disturbance falls on all of them.
    """
    pieces = {name: make() for name, make in WORK.items()}
    for run in pieces.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    end_s = clock() + budget_s
    while clock() < end_s or len(seconds["host"]) < 5:
        for name, run in pieces.items():
            start_s = clock()
            run()
            seconds[name].append(clock() - start_s)
    found = {}
    for name, times in seconds.items():
        calm = float(np.median(np.sort(times)[: max(round(CALM * len(times)), 1)]))
        low, high = np.quantile(times, [0.1, 0.9])
        found[name] = {"seconds": calm, "spread": float((high - low) / calm)}
    return found


def main() -> None:
    """Measure and print."""
    software = f"Python {platform.python_version()}, NumPy {np.__version__}"
    json.dump({"software": software, "work": measure()}, sys.stdout)


if __name__ == "__main__":
    main()
