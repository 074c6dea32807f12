"""Adapters on the device: at most `max_loras`, the least recently used leaves for one that comes.

`book` of a replica holds, of every adapter, the number of the last step that used it, then the number of
the step being composed, then the adapter in each of the device's slots (-1: none).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.serving.jit import inlined, njit
from windtunnel.specs.lora import LoraSpec


def make_book(spec: LoraSpec) -> npt.NDArray[np.float64]:
    """The book before the first step."""
    return np.concatenate([np.full(spec.adapters, -1.0), [0.0], np.full(spec.max_loras, -1.0)])


@inlined
def open_step(world: Any, replica: Any, book: Any) -> None:
    """A step begins without adapters."""
    book[world.adapters] += 1.0
    replica.stall_s = 0.0
    replica.step_adapters = 0
    replica.step_adapted = 0


@inlined
def admits(world: Any, replica: Any, book: Any, adapter: int) -> bool:
    """Whether a request of this adapter may join the step."""
    if adapter < 0 or replica.step_adapters < world.max_loras:
        return True
    return bool(book[adapter] == book[world.adapters])


@njit
def use(world: Any, replica: Any, book: Any, adapter: int, tokens: int) -> None:
    """The step computes tokens of this adapter, which is copied to the device unless it is there."""
    if adapter < 0:
        return
    replica.step_adapted += tokens
    now = book[world.adapters]
    if book[adapter] == now:
        return
    book[adapter] = now
    replica.step_adapters += 1
    oldest = world.adapters + 1
    for slot in range(world.adapters + 1, world.adapters + 1 + world.max_loras):
        there = int(book[slot])
        if there == adapter:
            return
        if there < 0:
            oldest = slot
            break
        if book[there] < book[int(book[oldest])]:
            oldest = slot
    book[oldest] = adapter
    replica.adapter_loads += 1
    replica.stall_s += world.adapter_load_s
    replica.stalled_s += world.adapter_load_s
