"""Can the client keep up? 500 requests/s with more than 2,000 open streams against a stub in another process.

The stub notes the moments before and after it writes each token; the client says when the token came. All are of the
machine's monotonic clock. A token that crosses the loopback comes between the two moments, unless the kernel puts off
its delivery, so that what a stamp is late after the second is the client's (or the kernel's) error, what it is early
before the first is an error too, and what lies between the two is the stub's share: it was writing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.live.bench import Bench, bench
from windtunnel.live.endpoint import Endpoint
from windtunnel.live.measurement import Measurement
from windtunnel.workload.table import request_table

RATE_PER_S, REQUESTS, TOKENS, GAP_S = 500.0, 6000, 9, 0.5
Floats = npt.NDArray[np.float64]

SERVER = """
import gc, sys, json
from live.stub import Behaviour, running
gc.freeze()
gc.disable()  # its pauses would be the stub's
with running(Behaviour(gap_s=float(sys.argv[1]))) as stub:
    print(stub.port, flush=True)
    sys.stdin.readline()
    print(json.dumps(stub.moments), flush=True)
"""


def measure(requests: int = REQUESTS) -> tuple[Measurement, dict[int, list[Any]], float]:
    """Run the load: what the client measured, what the stub noted by prompt length, and processor seconds."""
    tests = Path(__file__).parent.parent / "tests"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(GAP_S)], cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    port = int(server.stdout.readline())
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / RATE_PER_S, requests))
    # Every request has another length of prompt, by which its record is found again.
    table = request_table(arrivals, 1 + np.arange(requests), np.full(requests, TOKENS))
    start = time.process_time()
    measured = bench(Bench(table, Endpoint(f"http://127.0.0.1:{port}"), warmup=0))
    cpu_s = time.process_time() - start
    noted, _ = server.communicate("\n", timeout=60)
    return measured, {int(length): rest for length, *rest in json.loads(noted)}, cpu_s


def writing_s(measured: Measurement, noted: dict[int, list[Any]]) -> tuple[Floats, Floats]:
    """The moments before and after each token's writing, on the measurement's clock."""
    rows = [noted[int(length)] for length in measured.prompt_tokens]
    before_s, after_s = (np.concatenate([row[i] for row in rows]) - float(measured.meta["clock_s"]) for i in (1, 2))
    return before_s, after_s


def stamp_error_s(measured: Measurement, noted: dict[int, list[Any]]) -> Floats:
    """How far each token's stamp lies outside of its writing."""
    before_s, after_s = writing_s(measured, noted)
    return np.maximum(np.maximum(measured.token_s - after_s, before_s - measured.token_s), 0.0)


def open_streams(measured: Measurement) -> float:
    """Streams open at a time, the mean after the first requests have ended."""
    moments = np.linspace(TOKENS * GAP_S + 0.5, measured.due_s.max(), 40)
    return float(np.mean([((measured.sent_s <= at) & (measured.finish_s > at)).sum() for at in moments]))


def main() -> None:
    measured, noted, cpu_s = measure()
    before_s, after_s = writing_s(measured, noted)
    read_s = np.array([noted[int(length)][0] for length in measured.prompt_tokens]) - float(measured.meta["clock_s"])
    print(f"{measured.ok.sum():,} of {REQUESTS:,} answered; {open_streams(measured):,.0f} streams open on average")
    print(f"client: {cpu_s:.1f} s of processor in {measured.duration_s:.1f} s")
    show("sent late by", measured.lag_s)
    show("read by stub after", read_s - measured.sent_s)
    show("stub: a write takes", after_s - before_s)
    show("stamp after write began", measured.token_s - before_s)
    show("stamp error", stamp_error_s(measured, noted))


def show(what: str, seconds: Floats) -> None:
    """One line of quantiles, milliseconds."""
    at = np.quantile(seconds, [0.0, 0.5, 0.99, 0.999, 1.0]) * 1e3
    print(f"{what:26} p50 {at[1]:.3f}  p99 {at[2]:.3f}  p99.9 {at[3]:.3f}  min {at[0]:.3f}  max {at[4]:.3f} ms")


if __name__ == "__main__":
    main()
