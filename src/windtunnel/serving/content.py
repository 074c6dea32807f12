"""What blocks hold: the free queue's links, the table from content to blocks, the keys of content.

Content is found through an open-addressing table (linear probing, deletion by shifting back)
from a block's key to the block; blocks of equal content form a ring in order of insertion,
of which the table knows the first.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import mix, njit


@njit
def unlink(blocks: Any, b: int) -> None:
    """Take a block out of the free queue."""
    prev, following = blocks[b].prev, blocks[b].next
    blocks[prev].next = following
    blocks[following].prev = prev


@njit
def link_after(blocks: Any, place: int, b: int) -> None:
    """Put a block into the free queue behind another (0: at its front)."""
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
