"""The one place where the loop calls a scheduler.

A scheduler is a function that composes a replica's next step (`vllm.compose` is the pattern):
it starts with `clear_step`, gives slots tokens through the primitives of `batch.py` and ends
with `finish_composing`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving import vllm
from windtunnel.serving.jit import inlined

SCHEDULERS = ("vllm",)
"""Names of the schedulers; the place in this tuple is the number that the kernel knows."""


@inlined
def compose(
    world: Any, requests: Any, replica: Any, slots: Any, phase: Any, blocks: Any, cells: Any, segments: Any, log: Any
) -> None:
    """Compose the replica's next step with the run's scheduler."""
    vllm.compose(world, requests, replica, slots, phase, blocks, cells, segments, log)
