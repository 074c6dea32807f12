"""Sarathi-Serve: stall-free batching with chunked prefills.

A step takes every decode first, then goes on with prompts under way, then admits new ones, all
within one budget of tokens; a prompt is cut to what is left of it, so decodes never wait for a
prompt. Admission needs free blocks for the whole prompt.

A. Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve",
OSDI 2024, algorithm 3.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined
from windtunnel.serving.steps import admit_fitting, finish, serve_running
from windtunnel.serving.swap import begin


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any,
    book: Any,
) -> None:  # fmt: skip
    """Compose the replica's next step."""
    begin(world, replica)
    budget = serve_running(world, requests, replica, slots, phase, blocks, cells, segments, log)
    if replica.step_preempted == 0:
        admit_fitting(world, requests, replica, slots, blocks, cells, segments, log, budget)
    finish(world, replica, slots)
