"""Pieces of a step that several schedulers share, on top of the primitives of `batch.py`.

Every function takes the kernel's arrays in the order of `compose`.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.admission import idle_hits, look_up, seat
from windtunnel.serving.batch import admit, grant
from windtunnel.serving.jit import njit
from windtunnel.serving.log import log_entry
from windtunnel.serving.state import DECODE


@njit
def wanted_tokens(slot: Any) -> int:
    """Tokens that a running request could take in this step."""
    if slot.state == DECODE:
        return 0 if slot.flying > 0 else 1
    return int(slot.target - slot.start)


@njit
def update_generated(replica: Any, requests: Any, slot: Any) -> None:
    """Write a running request's generated tokens into its record (kept lazily while it decodes)."""
    if slot.state == DECODE:
        requests[slot.request].generated = requests[slot.request].output - (slot.finish_tick - replica.tick)


@njit
def cached_blocks(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, i: int
) -> int:
    """Leading blocks of the queue's head i that the prefix cache holds (0 without prefix caching)."""
    if not world.prefix:
        return 0
    return int(look_up(world, requests, replica, slots, blocks, cells, segments, i))


@njit
def blocks_needed(world: Any, requests: Any, replica: Any, blocks: Any, cells: Any, i: int, hits: int) -> int:
    """Free blocks that the queue's head i takes until its whole sequence so far is computed."""
    total = requests[i].prompt + requests[i].generated
    need = (total + world.block_size - 1) // world.block_size - hits
    if hits > 0:
        need += idle_hits(blocks, cells[replica.head_row], hits)
    return int(need)


@njit
def start(
    world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, log: Any, hits: int,
    tokens: int,
) -> int:  # fmt: skip
    """Admit the head of the queue with its cached blocks and first chunk. Returns its slot."""
    i = replica.head
    row = seat(world, requests, replica, slots, blocks, cells, i, hits)
    admit(world, requests, replica, slots, row)
    grant(world, requests, replica, slots, blocks, cells, segments, row, tokens)
    if world.recording:
        log_entry(world, log, i, tokens)
    return int(row)
