"""Simulations made by hand, for tests that ask what is computed from one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.serving.result import Simulation
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import request_table

SETTINGS = SchedulerSettings(max_num_seqs=8, max_num_batched_tokens=512, max_model_len=4096, num_blocks=1001)


def made_run(
    arrival_s: npt.ArrayLike,
    ttft_s: npt.ArrayLike,
    tpot_s: npt.ArrayLike = 0.01,
    *,
    wait_s: npt.ArrayLike = 0.0,
    prompt: npt.ArrayLike = 100,
    output: npt.ArrayLike = 11,
    **changed: Any,
) -> Simulation:
    """One replica that served every request with these latencies; nan of `ttft_s` is a request never served."""
    arrival = np.asarray(arrival_s, dtype=np.float64)
    n = len(arrival)
    prompt, output = np.full(n, prompt), np.full(n, output)
    first = arrival + np.broadcast_to(ttft_s, n)
    finish = first + (output - 1) * np.broadcast_to(tpot_s, n)
    columns: dict[str, Any] = {
        "workload": request_table(arrival, prompt, output),
        "settings": SETTINGS,
        "arrival_s": arrival,
        "scheduled_s": arrival + np.broadcast_to(wait_s, n),
        "first_token_s": first,
        "finish_s": finish,
        "output_tokens": np.where(np.isfinite(finish), output, 0),
        "preemptions": np.zeros(n, dtype=np.int64),
        "cached_tokens": np.zeros(n, dtype=np.int64),
        "replica": np.zeros(n, dtype=np.int64),
        "rejected": np.zeros(n, dtype=bool),
        "busy_s": np.array([1.0]),
        "dynamic_j": np.array([50.0]),
        "steps": np.array([100]),
        "tokens": np.array([2000]),
        "peak_blocks": np.array([500]),
        "makespan_s": float(np.nanmax(finish, initial=0.0)),
        "prefix_queries": 0,
        "prefix_hits": 0,
        "stop": "done",
    }
    return Simulation(**{**columns, **changed})
