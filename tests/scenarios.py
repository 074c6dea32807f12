"""Random small runs of the simulator, made from a seed, and a digest of everything they return.

Run as a program it reads seeds from stdin and answers each with the digest, so that a test can
hold a process without compilation against its own.
"""

from __future__ import annotations

import hashlib
import random
import sys
from dataclasses import fields
from typing import Any

import numpy as np

from windtunnel.cost.surface import StepSurface, context_grid, linear_surface
from windtunnel.serving.result import Simulation
from windtunnel.serving.routing import ROUTERS
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, RequestTable, request_table


def small_surface(max_tokens: int = 64, max_requests: int = 16, *, stages: int = 1, window: int = 0) -> StepSurface:
    """A tabulated step cost with all of its terms, milliseconds a step."""
    tokens, requests, grid = np.arange(max_tokens + 1), np.arange(max_requests + 1), context_grid(512)
    decode_s = 1e-6 * requests[:, None] * (10 + grid[None, :] ** 0.9)
    return StepSurface(
        token_s=np.where(tokens > 0, 1e-3 + 1e-5 * tokens, 0.0),
        sample_s=1e-5 * requests,
        decode_s=decode_s,
        decode_window_s=0.5 * decode_s if window else np.zeros((0, 0)),
        window_tokens=window,
        prefill_s=np.array([1e-4, 1e-6, 1e-8, 1e-8 if window else 0.0, 1e-7, 2e-6, 3e-8, 2e-8 if window else 0.0]),
        stage_share=np.full(stages, 1.0 / stages),
        hop_s=1e-5 + 1e-7 * tokens if stages > 1 else np.zeros(0),
        host_s=2e-4,
        host_request_s=1e-5,
        token_j=0.1 * tokens,
        sample_j=0.01 * requests,
        decode_j=np.array([0.01, 0.001, 0.0005 if window else 0.0]),
        prefill_j=np.array([0.5, 0.01, 0.001, 0.0, 0.001, 0.002, 0.001, 0.0]),
        static_w=100.0,
    )


def random_workload(draw: random.Random, *, linked: bool, shared: bool) -> RequestTable:
    """Up to 25 requests; `linked`: some follow others; `shared`: prompts are made of common segments."""
    n = draw.randint(1, 25)
    arrival_s = np.cumsum([draw.choice([0.0, draw.expovariate(200.0)]) for _ in range(n)])
    prompts = [[(draw.randint(0, 5), draw.randint(1, 40)) for _ in range(draw.randint(1, 3))] for _ in range(n)]
    segments = None
    if shared:
        flat = [segment for prompt in prompts for segment in prompt]
        offset = np.concatenate([[0], np.cumsum([len(prompt) for prompt in prompts])])
        segments = (offset, [content for content, _ in flat], [tokens for _, tokens in flat])
    after = [AT_ARRIVAL] * n
    if linked:
        after = [draw.choice([AT_ARRIVAL, AFTER_ANY, draw.randint(0, i - 1)]) if i else AT_ARRIVAL for i in range(n)]
    return request_table(
        arrival_s,
        [sum(tokens for _, tokens in prompt) for prompt in prompts],
        [draw.choice([1, draw.randint(1, 60)]) for _ in range(n)],
        priority=[draw.randint(0, 2) for _ in range(n)],
        after=after,
        delay_s=[draw.choice([0.0, 0.01]) for _ in range(n)],
        segments=segments,
    )


def random_setup(seed: int) -> tuple[RequestTable, StepSurface, SchedulerSettings, dict[str, Any]]:
    """Arguments of `run` made from a seed."""
    draw = random.Random(seed)
    linear = draw.random() < 0.3
    window = draw.choice([0, 0, 20, 64])
    stages = 1 if linear else draw.choice([1, 1, 2, 3])
    surface = linear_surface(1e-3, 1e-5, 1e-7) if linear else small_surface(stages=stages, window=window)
    prefix = draw.random() < 0.4
    block_size = draw.choice([1, 4, 16])
    settings = SchedulerSettings(
        max_num_seqs=draw.choice([1, 3, 16]),
        max_num_batched_tokens=draw.choice([16, 37, 64]),
        max_model_len=draw.choice([90, 200]),
        num_blocks=draw.choice([200, 400]) // block_size + 2,
        block_size=block_size,
        enable_prefix_caching=prefix,
        policy=draw.choice(["fcfs", "priority"]),
        long_prefill_token_threshold=draw.choice([0, 0, 10]),
        watermark=draw.choice([0.0, 0.1]),
        over_length=draw.choice(["reject", "truncate"]),
        overlap_scheduling=draw.random() < 0.4,
    )
    workload = random_workload(draw, linked=draw.random() < 0.3, shared=prefix and draw.random() < 0.8)
    arguments: dict[str, Any] = {
        "replicas": draw.choice([1, 1, 2, 4]),
        "router": draw.choice(ROUTERS[:-1]),  # the last is a loop of its own
        "seed": seed,
        "record_steps": draw.random() < 0.5,
        "sample_interval_s": draw.choice([None, 0.003]),
    }
    return workload, surface, settings, arguments


def random_run(seed: int, **changes: Any) -> Simulation:
    """A run made from a seed; `changes` override arguments of `run`."""
    workload, surface, settings, arguments = random_setup(seed)
    return run(workload, surface, settings, **(arguments | changes))


def digest(result: Simulation) -> str:
    """A hash of every number in a result, to the bit."""
    hasher = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            hasher.update(np.ascontiguousarray(value).tobytes())
        elif hasattr(value, "__dataclass_fields__"):
            for field in fields(value):
                if field.name not in ("workload", "settings"):
                    add(getattr(value, field.name))
        else:
            hasher.update(repr(value).encode())

    add(result)
    return hasher.hexdigest()


if __name__ == "__main__":
    for line in sys.stdin:
        print(digest(random_run(int(line))), flush=True)
