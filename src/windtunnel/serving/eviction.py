"""The paged KV cache with another order of eviction than least recently used (stands in for `kv_cache.py`).

Free blocks without content stand in the free queue and are taken first. Free blocks with content
stand in a heap by (score, time of release); the lowest is evicted.

- `lfu`: the score is how often the content was used since it was cached.
- `belady`: the next request that uses the content, from the workload itself; the one that is used
  last, or never again, goes first. An upper bound on hits where one replica looks requests up in the
  order in which they arrived (L. Belady, IBM Systems Journal 1966).
- `learned`: eviction by predicted reuse within marking phases (T. Lykouris and S. Vassilvitskii,
  "Competitive Caching with Machine Learned Advice", ICML 2018: what was used in the present phase is
  spared, which bounds the harm of bad predictions). The prediction is the rate of reuse, learned as
  it goes, of blocks of the same kind: how often used so far, and how deep in their prompt.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.content import extend_keys as extend_plain_keys
from windtunnel.serving.content import find, forget, insert, link_after, unlink
from windtunnel.serving.jit import njit

__all__ = ["cache_full", "extend_keys", "find", "forget", "insert", "release", "take", "touch"]

LFU, BELADY, LEARNED = 1, 2, 3
"""`WORLD.eviction`."""

KINDS = 128
"""Kinds of blocks, 8 by uses times 16 by depth; their statistics stand in the first rows of the blocks."""


@njit
def _sooner(blocks: Any, a: int, b: int) -> bool:
    if blocks[a].score != blocks[b].score:
        return bool(blocks[a].score < blocks[b].score)
    return bool(blocks[a].turn < blocks[b].turn)


@njit
def _set(blocks: Any, at: int, b: int) -> None:
    blocks[at].heap = b
    blocks[b].place = at


@njit
def _rise(blocks: Any, at: int, b: int) -> None:
    while at > 0:
        parent = (at - 1) // 2
        other = blocks[parent].heap
        if not _sooner(blocks, b, other):
            break
        _set(blocks, at, other)
        at = parent
    _set(blocks, at, b)


@njit
def _remove(replica: Any, blocks: Any, b: int) -> None:
    """Take block b out of the heap."""
    at = blocks[b].place
    replica.evictable -= 1
    last = blocks[replica.evictable].heap
    if last == b:
        return
    while True:
        child = 2 * at + 1
        if child >= replica.evictable:
            break
        one = blocks[child].heap
        if child + 1 < replica.evictable and _sooner(blocks, blocks[child + 1].heap, one):
            child += 1
            one = blocks[child].heap
        if not _sooner(blocks, one, last):
            break
        _set(blocks, at, one)
        at = child
    _rise(blocks, at, last)


@njit
def _kind(uses: int, position: int) -> int:
    depth, rest = 0, position + 1
    while rest > 1 and depth < 15:
        rest //= 2
        depth += 1
    return int(min(uses, 7) * 16 + depth)


@njit
def _end_idle(world: Any, replica: Any, blocks: Any, b: int, reused: int) -> None:
    """Block b's time without a user ends, by reuse or by eviction: learn from it."""
    idle_s = world.now_s - blocks[b].since_s
    kind = blocks[b].kind
    blocks[kind].class_idle_s += idle_s
    blocks[kind].class_reuses += reused
    replica.idle_s += idle_s
    replica.idle_ends += 1.0
    replica.reuses += reused


@njit
def _reuse_share(replica: Any, blocks: Any, kind: int) -> float:
    """Predicted rate of reuse of this kind, mapped to 0 .. 1: its reuses per idle time against the usual.

    With little seen of the kind it counts as one more block of the usual rate.
    """
    if replica.idle_s <= 0.0:
        return 0.5
    usual_s = replica.idle_s / replica.idle_ends
    usual = (replica.reuses + 1.0) / (replica.idle_ends + 2.0)
    rate = (blocks[kind].class_reuses + usual) / (blocks[kind].class_idle_s + usual_s) * usual_s
    return float(rate / (1.0 + rate))


@njit
def _rate(world: Any, replica: Any, blocks: Any, b: int, position: int) -> None:
    """Give block b, which has no user any more, its score."""
    block = blocks[b]
    if world.eviction == LFU:
        block.score = block.uses
    elif world.eviction == BELADY:
        block.score = -float(block.again)
    else:
        block.kind = _kind(block.uses, position)
        block.since_s = world.now_s
        block.score = block.era + _reuse_share(replica, blocks, block.kind)
    replica.turn += 1
    block.turn = replica.turn


@njit
def take(world: Any, replica: Any, blocks: Any) -> int:
    """Take a free block without content, else the one whose content is worth least."""
    b = int(blocks[0].next)
    if b != 0:
        unlink(blocks, b)
    else:
        b = int(blocks[0].heap)
        if world.eviction == LEARNED:
            _end_idle(world, replica, blocks, b, 0)
            if blocks[b].era == replica.era:  # everything idle was used in this phase: the next begins
                replica.era += 1
        _remove(replica, blocks, b)
        forget(blocks, world.hash_mask, b)
    blocks[b].refs = 1
    replica.free_blocks -= 1
    return b


@njit
def touch(world: Any, replica: Any, blocks: Any, b: int) -> None:
    """Share a block that was found in the cache."""
    if blocks[b].refs == 0:
        if world.eviction == LEARNED:
            _end_idle(world, replica, blocks, b, 1)
        _remove(replica, blocks, b)
        replica.free_blocks -= 1
    blocks[b].refs += 1
    blocks[b].uses += 1
    blocks[b].era = replica.era


@njit
def release(world: Any, replica: Any, blocks: Any, cells: Any, count: int) -> None:
    """Give back a request's blocks, tail first."""
    for position in range(count - 1, -1, -1):
        b = int(cells[position].block)
        blocks[b].refs -= 1
        if blocks[b].key != 0:
            blocks[b].again = max(blocks[b].again, cells[position].again)
        if blocks[b].refs == 0:
            replica.free_blocks += 1
            if blocks[b].key == 0:
                link_after(blocks, 0, b)
            else:
                _rate(world, replica, blocks, b, position)
                _rise(blocks, replica.evictable, b)
                replica.evictable += 1


@njit
def extend_keys(world: Any, requests: Any, slot: Any, cells: Any, segments: Any, count: int) -> None:
    """Compute the keys of a request's first `count` blocks, and who uses their content next."""
    known = slot.keys
    extend_plain_keys(world, requests, slot, cells, segments, count)
    if world.eviction == BELADY:
        for position in range(known, slot.keys):
            cells[position].again = segments[requests[slot.request].first_block + position].again


@njit
def cache_full(
    world: Any, requests: Any, replica: Any, slot: Any, slots: Any, blocks: Any, cells: Any, segments: Any,
    waiting_cells: Any, full: int,
) -> None:  # fmt: skip
    """Make a request's first `full` blocks findable, as far as not yet done (see `kv_cache.cache_full`)."""
    extend_keys(world, requests, slot, cells, segments, full)
    while slot.cached_blocks < full:
        position = slot.cached_blocks
        key = cells[position].key
        b = cells[position].block
        insert(blocks, world.hash_mask, key, b)
        blocks[b].uses = 1
        blocks[b].again = 0
        blocks[b].era = replica.era
        slot.cached_blocks += 1
        if replica.blocked >= 0 and replica.blocked == replica.head_request:
            known = slots[replica.head_row].keys
            if position < known and waiting_cells[position].key == key:
                replica.blocked = -1
