"""Speed of the simulation loop: requests/s, steps/s, memory, the gain over plain Python, threads, growth, compiling.

    python benchmarks/hot_loop.py [--only NAME] [--json]

Workloads: the Azure conversation hour on one replica, the same fifty times over, a million
requests on 64 replicas behind a load-aware router, prefix caching on the Mooncake conversation
trace, memory so tight that requests are preempted, and the hour with every step recorded. The
traces are read from ../shared beside the repository; where they are absent, synthetic requests of
the same sizes stand in. Each measurement runs in a process of its own, so that its peak memory is
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.cost.surface import StepSurface, context_grid
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.workload.table import RequestTable, request_table

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
HOUR_S, HOUR_REQUESTS = 3600.0, 19_366


def h100_8b_surface(max_tokens: int = 2048, max_requests: int = 256, max_context: int = 131_072) -> StepSurface:
    """An 8 B dense model in bf16 on an H100 as a roofline: 3.35 TB/s, 600 TFLOP/s, 128 KiB of KV per token."""
    tokens = np.arange(max_tokens + 1)
    weights_s, flop_s, kv_s = 15.0e9 / 2.8e12, 2 * 7.5e9 / 600e12, 131_072 / 2.8e12
    token_s = np.where(tokens > 0, np.maximum(weights_s, tokens * flop_s) + 3e-4, 0.0)
    requests = np.arange(max_requests + 1)
    grid = context_grid(max_context)
    return StepSurface(
        token_s=token_s,
        sample_s=np.where(requests > 0, 2e-4 + requests * 1e-6, 0.0),
        decode_s=requests[:, None] * grid[None, :] * kv_s + (requests[:, None] > 0) * 6e-5,
        decode_window_s=np.zeros((0, 0)),
        window_tokens=0,
        prefill_s=np.array([1e-4, 0.0, 4 * 32 * 4096 / 450e12, 0.0, kv_s, 2e-6, 1e-9, 0.0]),
        stage_share=np.ones(1),
        hop_s=np.zeros(0),
        host_s=3e-4,
        host_request_s=4e-6,
        token_j=token_s * 350.0,
        sample_j=np.zeros(max_requests + 1),
        decode_j=np.array([0.0, kv_s * 300.0, 0.0]),
        prefill_j=np.zeros(8),
        static_w=100.0,
    )


def azure_hour() -> RequestTable:
    """The Azure conversation hour of 2023, or log-normal stand-ins."""
    path = TRACES / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        draw = np.random.default_rng(0)
        prompt = np.clip(draw.lognormal(6.6, 1.0, HOUR_REQUESTS), 1, 14_000).astype(np.int64)
        output = np.clip(draw.lognormal(4.9, 1.0, HOUR_REQUESTS), 1, 1000).astype(np.int64)
        return request_table(np.sort(draw.uniform(0, HOUR_S, HOUR_REQUESTS)), prompt, output)
    lines = path.read_text().splitlines()[1:]
    stamps, prompt, output = zip(*(line.split(",") for line in lines), strict=True)
    at = np.array(stamps, dtype="datetime64[ns]").astype(np.int64) / 1e9
    return request_table(at - at[0], np.array(prompt, dtype=np.int64), np.array(output, dtype=np.int64))


def tiled(table: RequestTable, times: int, period_s: float = HOUR_S) -> RequestTable:
    """The same requests over and over, one period after another."""
    arrival_s = np.tile(table.arrival_s, times) + np.repeat(np.arange(times) * period_s, len(table))
    order = np.argsort(arrival_s, kind="stable")
    return request_table(
        arrival_s[order], np.tile(table.prompt_tokens, times)[order], np.tile(table.output_tokens, times)[order]
    )


def mooncake() -> RequestTable:
    """The Mooncake conversation trace with its blocks of 512 tokens, or sessions that grow."""
    path = TRACES / "mooncake_conversation.jsonl"
    if path.exists():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = [
            {"timestamp": 300 * i, "input_length": 512 * (2 + i % 40), "output_length": 300,
             "hash_ids": [100 * (i % 300) + k for k in range(2 + i % 40)]}
            for i in range(12_031)
        ]  # fmt: skip
    ids, tokens, offset = [], [], [0]
    for row in rows:
        left = row["input_length"]
        for content in row["hash_ids"]:
            ids.append(content)
            tokens.append(min(512, left))
            left -= tokens[-1]
        offset.append(len(ids))
    prompt = np.add.reduceat(np.array(tokens), offset[:-1])
    return request_table(
        np.array([row["timestamp"] for row in rows]) / 1e3,
        prompt,
        np.maximum([row["output_length"] for row in rows], 1),
        segments=(offset, ids, tokens),
    )


def settings(**changes: object) -> SchedulerSettings:
    """256 requests and 2048 tokens a step, room for 430,000 tokens of KV."""
    given: dict[str, object] = {
        "max_num_seqs": 256, "max_num_batched_tokens": 2048, "max_model_len": 131_072, "num_blocks": 27_000,
    }  # fmt: skip
    return SchedulerSettings(**(given | changes))  # type: ignore[arg-type]


Arguments = tuple[RequestTable, SchedulerSettings, dict[str, Any]]


def _azure() -> Arguments:
    return azure_hour(), settings(), {}


def _recorded() -> Arguments:
    return azure_hour(), settings(), {"record_steps": True}


def _azure_50() -> Arguments:
    return tiled(azure_hour(), 50), settings(), {}


def _cluster() -> Arguments:
    return tiled(azure_hour(), 52, HOUR_S / 64), settings(), {"replicas": 64, "router": "least_outstanding"}


def _mooncake() -> Arguments:
    return mooncake(), settings(enable_prefix_caching=True, num_blocks=60_000), {"replicas": 8}


def _tight() -> Arguments:
    return azure_hour().with_rate(3.0), settings(num_blocks=1_500), {}


WORKLOADS: dict[str, tuple[str, Callable[[], Arguments]]] = {
    "azure": ("Azure conversation hour, 1 replica", _azure),
    "azure-x50": ("the same x 50", _azure_50),
    "cluster": ("1.007 M requests, 64 replicas, least outstanding", _cluster),
    "mooncake": ("Mooncake, prefix caching, 8 replicas", _mooncake),
    "tight": ("Azure x 3 rate, 24,000 tokens of KV", _tight),
    "recorded": ("Azure hour, every step recorded", _recorded),
}


def measure(name: str) -> dict[str, float]:
    """Best wall time of a workload and this process's peak memory."""
    table, limits, options = WORKLOADS[name][1]()
    surface = h100_8b_surface()
    run(request_table([0.0], [8], [2]), surface, settings())  # load or compile
    best = float("inf")
    for _ in range(10 if name in ("azure", "tight", "recorded") else 3):
        began = time.perf_counter()
        result = run(table, surface, limits, **options)
        best = min(best, time.perf_counter() - began)
    return {
        "seconds": best,
        "requests": len(result),
        "steps": int(result.steps.sum()),
        "preemptions": int(result.preemptions.sum()),
        "hit_share": result.prefix_hits / max(result.prefix_queries, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def start_of(table: RequestTable, count: int) -> RequestTable:
    """The first requests of a workload."""
    last = table.segment_offset[count] if table.shares_prefixes else 0
    return request_table(
        table.arrival_s[:count],
        table.prompt_tokens[:count],
        table.output_tokens[:count],
        segments=(table.segment_offset[: count + 1], table.segment_id[:last], table.segment_tokens[:last])
        if table.shares_prefixes
        else None,
    )


def uncompiled(name: str) -> float:
    """Seconds per step of this process (plain Python when JIT is off) on a workload's first requests."""
    table, limits, options = WORKLOADS[name][1]()
    few, surface = start_of(table, 40 if name == "mooncake" else 150), h100_8b_surface()
    run(request_table([0.0], [8], [2]), surface, settings())
    began = time.perf_counter()
    steps = int(run(few, surface, limits, **options).steps.sum())
    return (time.perf_counter() - began) / steps


def threads_ratio() -> float:
    """How much sooner two runs end on two threads than one after the other."""
    table, surface = tiled(azure_hour(), 10), h100_8b_surface()

    def once() -> None:
        run(table, surface, settings())

    def both(threads: bool) -> float:
        began = time.perf_counter()
        pair = [threading.Thread(target=once) for _ in range(2)]
        for thread in pair:
            thread.start()
            if not threads:
                thread.join()
        for thread in pair:
            thread.join()
        return time.perf_counter() - began

    once()
    return min(both(False) for _ in range(5)) / min(both(True) for _ in range(5))


def growth() -> list[tuple[int, float]]:
    """Seconds against the number of requests."""
    hour, surface = azure_hour(), h100_8b_surface()
    run(hour, surface, settings())
    curve = []
    for times in (1, 2, 5, 10, 20, 50):
        table = tiled(hour, times)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            run(table, surface, settings())
            seconds.append(time.perf_counter() - began)
        curve.append((len(table), min(seconds)))
    return curve


def cold_compile() -> list[float]:
    """Processor and wall seconds of a first run with an empty cache."""
    table, surface = request_table([0.0], [8], [2]), h100_8b_surface()
    processor, wall = time.process_time(), time.perf_counter()
    run(table, surface, settings())
    return [time.process_time() - processor, time.perf_counter() - wall]


OTHERS: dict[str, Callable[[], Any]] = {"threads": threads_ratio, "growth": growth, "compile": cold_compile}


def _child(what: str, **variables: str) -> Any:
    command = [sys.executable, __file__, "--child", what]
    child = subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.PIPE)
    return json.loads(child.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=[*WORKLOADS, *OTHERS])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        what, _, name = arguments.child.partition(":")
        answer = OTHERS[what]() if what in OTHERS else {"measure": measure, "uncompiled": uncompiled}[what](name)
        print(json.dumps(answer))
        return
    results: dict[str, Any] = {}
    for name in [arguments.only] if arguments.only else [*WORKLOADS, *OTHERS]:
        if name in WORKLOADS:
            results[name] = _child(f"measure:{name}")
            results[name]["uncompiled_step_s"] = _child(f"uncompiled:{name}", NUMBA_DISABLE_JIT="1")
        else:
            with tempfile.TemporaryDirectory() as empty:
                results[name] = _child(name, **({"NUMBA_CACHE_DIR": empty} if name == "compile" else {}))
        if not arguments.json:
            _print(name, results[name])
    if arguments.json:
        print(json.dumps(results, indent=2))


def _print(name: str, row: Any) -> None:
    if name == "threads":
        print(f"two runs on two threads: {row:.2f} x as fast as one after the other")
    elif name == "growth":
        print("seconds against requests: " + ", ".join(f"{n:,}: {seconds:.3f}" for n, seconds in row))
    elif name == "compile":
        print(f"the first run of all, which compiles: {row[0]:.1f} s of processor time, {row[1]:.1f} s")
    else:
        ratio = row["uncompiled_step_s"] * row["steps"] / row["seconds"]
        print(
            f"{WORKLOADS[name][0]:<50} {row['seconds']:7.3f} s {row['requests'] / row['seconds']:>11,.0f} requests/s "
            f"{row['steps'] / row['seconds']:>12,.0f} steps/s {row['peak_mib']:5.0f} MiB {ratio:>7,.0f} x plain Python"
            f" ({row['preemptions']} preemptions, {row['hit_share']:.0%} of prefix tokens found)",
            flush=True,
        )


if __name__ == "__main__":
    main()
