"""Measurements made by the simulator itself, so that what a comparison should find is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from windtunnel.live.measurement import Measurement, measurement
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.workload.table import RequestTable, request_table

BASE = {"model": "llama-3.1-8b", "accelerator": "h100-sxm", "plan": {"tensor_parallel": 1}}


def deployment(**engine: Any) -> DeploymentSpec:
    return load_deployment({**BASE, "engine": {"extends": "vllm", "enable_prefix_caching": False, **engine}})


def traffic(n: int = 300, rate_per_s: float = 12.0, seed: int = 1) -> RequestTable:
    rng = np.random.default_rng(seed)
    # Quiet and busy stretches, so that batches of many sizes occur.
    pace = rate_per_s * np.repeat([0.3, 2.0, 0.3, 1.5], -(-n // 4))[:n]
    arrivals = np.cumsum(rng.exponential(1.0, n) / pace)
    return request_table(arrivals, rng.integers(100, 1500, n), rng.integers(20, 300, n))


def measured(of: DeploymentSpec, table: RequestTable, noise: float = 0.0, seed: int = 2) -> Measurement:
    """The simulation of a deployment as if it had been measured, with relative noise on every latency."""
    run = serve(of, table).simulation
    rng = np.random.default_rng(seed)
    records = []
    for i in range(len(table)):
        wobble = float(np.exp(noise * rng.standard_normal()))
        first = run.arrival_s[i] + run.ttft_s[i] * wobble
        finish = first + (run.finish_s[i] - run.first_token_s[i]) * wobble
        count = int(run.output_tokens[i])
        records.append(
            {
                "row": i, "due_s": run.arrival_s[i], "sent_s": run.arrival_s[i], "first_token_s": first,
                "finish_s": finish, "prompt_tokens": int(table.prompt_tokens[i]), "output_tokens": count,
                "prompt_reported": int(table.prompt_tokens[i]), "output_received": count, "attempts": 1, "status": "ok",
                "token_s": np.linspace(first, finish, count).tolist(),
            }
        )  # fmt: skip
    return measurement(records, {"notes": []})
