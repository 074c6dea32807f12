"""The paged KV cache of a replica, block by block (prefix caching on).

Blocks are reference-counted. Free blocks stand in one doubly linked queue in the order in
which they will be taken: blocks without reusable content return to its front, blocks with
content to its back, so content is evicted least recently used first and, within a request,
tail first. Block 0 is never given out and serves as the queue's sentinel.

Content is found through an open-addressing table (linear probing, deletion by shifting back)
from a block's key to the block; blocks of equal content form a ring in order of insertion,
of which the table knows the first. Without prefix caching only the number of free blocks
matters and none of this is used (`batch.py`).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import mix, njit


@njit
def _unlink(blocks: Any, b: int) -> None:
    prev, following = blocks[b].prev, blocks[b].next
    blocks[prev].next = following
    blocks[following].prev = prev


@njit
def _link_after(blocks: Any, place: int, b: int) -> None:
    following = blocks[place].next
    blocks[b].prev = place
    blocks[b].next = following
    blocks[place].next = b
    blocks[following].prev = b


@njit
def find(blocks: Any, mask: int, key: int) -> int:
    """The block that holds this content (the first one cached), or 0."""
    i = key & mask
    while blocks[i].bucket != 0:
        b = blocks[i].bucket
        if blocks[b].key == key:
            return int(b)
        i = (i + 1) & mask
    return 0


@njit
def insert(blocks: Any, mask: int, key: int, b: int) -> None:
    """Make block b known as holding this content."""
    blocks[b].key = key
    i = key & mask
    while blocks[i].bucket != 0:
        first = blocks[i].bucket
        if blocks[first].key == key:
            last = blocks[first].same_prev
            blocks[last].same_next = b
            blocks[b].same_prev = last
            blocks[b].same_next = first
            blocks[first].same_prev = b
            return
        i = (i + 1) & mask
    blocks[i].bucket = b
    blocks[b].same_prev = b
    blocks[b].same_next = b


@njit
def _delete_bucket(blocks: Any, mask: int, i: int) -> None:
    j = i
    while True:
        j = (j + 1) & mask
        b = blocks[j].bucket
        if b == 0:
            break
        home = blocks[b].key & mask
        if ((j - home) & mask) >= ((j - i) & mask):
            blocks[i].bucket = b
            i = j
    blocks[i].bucket = 0


@njit
def forget(blocks: Any, mask: int, b: int) -> None:
    """Evict block b's content, if it has any."""
    key = blocks[b].key
    if key == 0:
        return
    i = key & mask
    while blocks[blocks[i].bucket].key != key:
        i = (i + 1) & mask
    following = blocks[b].same_next
    if following == b:
        _delete_bucket(blocks, mask, i)
    else:
        prev = blocks[b].same_prev
        blocks[prev].same_next = following
        blocks[following].same_prev = prev
        if blocks[i].bucket == b:
            blocks[i].bucket = following
    blocks[b].key = 0


@njit
def take(world: Any, replica: Any, blocks: Any) -> int:
    """Take the first free block, evicting what it held."""
    b = int(blocks[0].next)
    _unlink(blocks, b)
    forget(blocks, world.hash_mask, b)
    blocks[b].refs = 1
    replica.free_blocks -= 1
    return b


@njit
def touch(replica: Any, blocks: Any, b: int) -> None:
    """Share a block that was found in the cache."""
    if blocks[b].refs == 0:
        _unlink(blocks, b)
        replica.free_blocks -= 1
    blocks[b].refs += 1


@njit
def release(replica: Any, blocks: Any, cells: Any, count: int) -> None:
    """Give back a request's blocks, tail first."""
    front = 0
    for position in range(count - 1, -1, -1):
        b = int(cells[position].block)
        blocks[b].refs -= 1
        if blocks[b].refs == 0:
            replica.free_blocks += 1
            if blocks[b].key == 0:
                _link_after(blocks, int(front), b)
                front = b
            else:
                _link_after(blocks, int(blocks[0].prev), b)


@njit
def extend_keys(world: Any, requests: Any, slot: Any, cells: Any, segments: Any, count: int) -> None:
    """Compute the keys of a request's first `count` blocks, as far as not yet done.

    A block's key mixes its predecessor's key with the pieces of content it overlaps
    (content id, offset within the content, tokens); the output follows the prompt.
    """
    i = slot.request
    while slot.keys < count:
        key = cells[slot.keys - 1].key if slot.keys > 0 else 0
        left = world.block_size
        while left > 0:
            if slot.segment < requests[i].segment_end:
                content = segments[slot.segment].content
                size = min(left, segments[slot.segment].tokens - slot.segment_used)
            else:
                content = requests[i].output_id
                size = 1 if world.token_output else left
            if size > 0:
                key = mix(mix(key, content), slot.segment_used * 4294967296 + size)
                left -= size
                slot.segment_used += size
            if slot.segment < requests[i].segment_end:
                if slot.segment_used == segments[slot.segment].tokens:
                    slot.segment += 1
                    slot.segment_used = 0
            elif world.token_output:
                slot.segment_used = 0
        cells[slot.keys].key = key
        slot.keys += 1


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
