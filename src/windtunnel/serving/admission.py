"""Taking a waiting request in: what the prefix cache holds of it, the blocks it needs, its slot."""

from __future__ import annotations

from typing import Any

from windtunnel.serving.batch import open_row, take_row
from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.kv_cache import extend_keys, find, touch


@njit
def look_up(world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, segments: Any, i: int) -> int:
    """How many leading blocks of the waiting request are cached (its last token never counts)."""
    if replica.head_request != i:
        replica.head_request = i
        replica.blocked = -1
        open_row(requests, slots[replica.head_row], i)
    slot = slots[replica.head_row]
    own = cells[replica.head_row]
    most = (slot.target - 1) // world.block_size
    hits = 0
    while hits < most:
        extend_keys(world, requests, slot, own, segments, hits + 1)
        b = find(blocks, world.hash_mask, own[hits].key)
        if b == 0:
            break
        own[hits].block = b
        hits += 1
    return hits


@njit
def idle_hits(blocks: Any, cells: Any, hits: int) -> int:
    """How many of the found blocks stand in the free queue and would leave it."""
    idle = 0
    for position in range(hits):
        if blocks[cells[position].block].refs == 0:
            idle += 1
    return idle


@inlined
def seat(world: Any, requests: Any, replica: Any, slots: Any, blocks: Any, cells: Any, i: int, hits: int) -> int:
    """A slot for the head of the queue, holding the blocks found for it."""
    if not world.prefix:
        row = take_row(replica, slots)
        open_row(requests, slots[row], i)
        return row
    row = replica.head_row
    replica.head_row = take_row(replica, slots)
    replica.head_request = -1
    for position in range(hits):
        touch(world, replica, blocks, cells[row, position].block)
    slots[row].blocks = hits
    slots[row].cached_blocks = hits
    slots[row].start = hits * world.block_size
    return int(row)
