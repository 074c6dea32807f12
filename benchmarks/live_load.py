"""Can the client keep up? 500 requests/s with about 2,000 open streams against a stub in another process.

The stub notes when it writes each token; the client notes when it reads it. Both use the machine's monotonic
clock, so the difference is the error of the client's timestamps (the kernel's delivery included).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from windtunnel.live.bench import Bench, bench
from windtunnel.live.endpoint import Endpoint
from windtunnel.workload.table import request_table

RATE_PER_S, REQUESTS, TOKENS, GAP_S = 500.0, 5000, 8, 0.5

SERVER = """
import sys, json
from live.stub import Behaviour, running
with running(Behaviour(gap_s=float(sys.argv[1]))) as stub:
    print(stub.port, flush=True)
    sys.stdin.readline()
    print(json.dumps(stub.token_s), flush=True)
"""


def main() -> None:
    tests = Path(__file__).parent.parent / "tests"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(GAP_S)], cwd=tests, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    port = int(server.stdout.readline())
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / RATE_PER_S, REQUESTS))
    # Every request has another length of prompt, by which its record is found again.
    table = request_table(arrivals, 1 + np.arange(REQUESTS) % REQUESTS, np.full(REQUESTS, TOKENS))
    start = time.process_time()
    measured = bench(Bench(table, Endpoint(f"http://127.0.0.1:{port}"), warmup=0))
    cpu_s = time.process_time() - start
    server.stdin.write("\n")
    server.stdin.flush()
    written = {int(length): moments for length, moments in json.loads(server.stdout.readline())}
    server.wait(10)
    origin = float(measured.meta["clock_s"])
    error_s = measured.token_s + origin - np.concatenate([written[int(length)] for length in measured.prompt_tokens])
    open_streams = [
        int(((measured.sent_s <= at) & (measured.finish_s > at)).sum()) for at in np.linspace(3, arrivals[-1], 20)
    ]
    lag_ms, error_ms = 1e3 * measured.lag_s, 1e3 * error_s
    print(f"{measured.ok.sum():,} of {REQUESTS:,} answered; {np.mean(open_streams):,.0f} streams open on average")
    print(f"client: {cpu_s:.1f} s of processor in {measured.duration_s:.1f} s")
    print(f"sent late by    p50 {np.quantile(lag_ms, 0.5):.2f}  p99 {np.quantile(lag_ms, 0.99):.2f} ms")
    print(f"timestamp error p50 {np.quantile(error_ms, 0.5):.2f}  p99 {np.quantile(error_ms, 0.99):.2f} ms")


if __name__ == "__main__":
    main()
