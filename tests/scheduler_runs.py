"""Random small runs under every scheduler, made from a seed."""

from __future__ import annotations

import random
from typing import Any

from scenarios import random_workload, small_surface
from windtunnel.cost.surface import linear_surface
from windtunnel.serving.result import Simulation
from windtunnel.serving.routing import ROUTERS
from windtunnel.serving.run import run
from windtunnel.serving.schedulers import SCHEDULERS
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.specs.scheduler import SchedulerOptions

LONGEST = 200


def random_settings(draw: random.Random, scheduler: str) -> SchedulerSettings:
    """Settings that this scheduler accepts, often tight."""
    info = SCHEDULERS[scheduler]
    block_size = draw.choice([1, 4, 16])
    swap = draw.choice(["swap", "recompute"]) if info.may_swap else "auto"
    return SchedulerSettings(
        max_num_seqs=draw.choice([1, 3, 16]),
        max_num_batched_tokens=LONGEST if info.whole_prompts else draw.choice([16, 37, LONGEST]),
        max_model_len=draw.choice([90, LONGEST]),
        num_blocks=draw.choice([200, 400]) // block_size + 2,
        block_size=block_size,
        enable_prefix_caching=draw.random() < 0.4,
        watermark=draw.choice([0.0, 0.1]),
        over_length=draw.choice(["reject", "truncate"]),
        scheduler=scheduler,
        host_blocks=draw.choice([10, 1000]) if swap == "swap" else 0,
        swap_block_s=draw.choice([0.0, 1e-4]),
        options=SchedulerOptions(
            reservation=draw.choice(["exact", "power_of_two", "max_model_len"]),
            preemption=swap,
            swap_group_blocks=draw.choice([0, 4]),
            swap_overlap=draw.choice(["auto", "on", "off"]),
            swap_reuse=draw.choice(["auto", "on", "off"]),
            swap_call_s=draw.choice([0.0, 1e-5]),
            queues=draw.choice([2, 8]),
            starvation_s=draw.choice([0.01, 10.0]),
            priority_update_steps=draw.choice([1, 7, 25]),
            length_error=draw.choice([0.0, 0.5]),
            deadline_per_token_s=1e-3,
            history=draw.choice([2, 1000]),
        ),
    )


def scheduler_run(scheduler: str, seed: int, **changes: Any) -> Simulation:
    """A run of this scheduler made from a seed; `changes` override arguments of `run`."""
    draw = random.Random(f"{scheduler} {seed}")
    linear = draw.random() < 0.3
    stages = 1 if linear else draw.choice([1, 1, 2])
    window = draw.choice([0, 20])
    surface = linear_surface(1e-3, 1e-5, 1e-7) if linear else small_surface(LONGEST, stages=stages, window=window)
    settings = random_settings(draw, scheduler)
    shared = settings.enable_prefix_caching and draw.random() < 0.8
    workload = random_workload(draw, linked=draw.random() < 0.3, shared=shared)
    arguments: dict[str, Any] = {
        "replicas": draw.choice([1, 1, 2]),
        "router": draw.choice(ROUTERS[:-1]),
        "seed": seed,
        "record_steps": draw.random() < 0.5,
        "sample_interval_s": draw.choice([None, 0.003]),
    }
    return run(workload, surface, settings, **(arguments | changes))
