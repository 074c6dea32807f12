"""The paged KV cache of a replica, block by block (prefix caching on).

Blocks are reference-counted. Free blocks stand in one doubly linked queue in the order in
which they will be taken: blocks without reusable content return to its front, blocks with
content to its back, so content is evicted least recently used first and, within a request,
tail first. Block 0 is never given out and serves as the queue's sentinel.

How content is found stands in `content.py`; other orders of eviction in `eviction.py`. Without
prefix caching only the number of free blocks matters and none of this is used (`batch.py`).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.content import extend_keys, find, forget, insert, link_after, unlink
from windtunnel.serving.jit import njit

__all__ = ["cache_full", "extend_keys", "find", "forget", "insert", "release", "take", "touch"]


@njit
def take(world: Any, replica: Any, blocks: Any) -> int:
    """Take the first free block, evicting what it held."""
    b = int(blocks[0].next)
    unlink(blocks, b)
    forget(blocks, world.hash_mask, b)
    blocks[b].refs = 1
    replica.free_blocks -= 1
    return b


@njit
def touch(world: Any, replica: Any, blocks: Any, b: int) -> None:
    """Share a block that was found in the cache."""
    if blocks[b].refs == 0:
        unlink(blocks, b)
        replica.free_blocks -= 1
    blocks[b].refs += 1


@njit
def release(world: Any, replica: Any, blocks: Any, cells: Any, count: int) -> None:
    """Give back a request's blocks, tail first."""
    front = 0
    for position in range(count - 1, -1, -1):
        b = int(cells[position].block)
        blocks[b].refs -= 1
        if blocks[b].refs == 0:
            replica.free_blocks += 1
            if blocks[b].key == 0:
                link_after(blocks, int(front), b)
                front = b
            else:
                link_after(blocks, int(blocks[0].prev), b)


@njit
def cache_full(
    world: Any, requests: Any, replica: Any, slot: Any, slots: Any, blocks: Any, cells: Any, segments: Any,
    waiting_cells: Any, full: int,
) -> None:  # fmt: skip
    """Make a request's first `full` blocks findable, as far as not yet done.

    When one of them is content that the blocked head of the queue looks for, that head may
    fit now and must be looked at again.
    """
    extend_keys(world, requests, slot, cells, segments, full)
    while slot.cached_blocks < full:
        position = slot.cached_blocks
        key = cells[position].key
        insert(blocks, world.hash_mask, key, cells[position].block)
        slot.cached_blocks += 1
        if replica.blocked >= 0 and replica.blocked == replica.head_request:
            known = slots[replica.head_row].keys
            if position < known and waiting_cells[position].key == key:
                replica.blocked = -1
