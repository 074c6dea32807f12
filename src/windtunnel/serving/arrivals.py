"""Arrivals: rows of the workload in time, and those that wait for another request to finish."""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.jit import inlined, njit

AT_ARRIVAL, AFTER_ANY = -1, -2


@njit
def _earlier(requests: Any, a: int, b: int) -> bool:
    if requests[a].arrival_s != requests[b].arrival_s:
        return bool(requests[a].arrival_s < requests[b].arrival_s)
    return bool(a < b)


@njit
def _heap_push(world: Any, requests: Any, i: int) -> None:
    at = world.heap_size
    world.heap_size += 1
    while at > 0:
        parent = (at - 1) // 2
        if not _earlier(requests, i, requests[parent].heap):
            break
        requests[at].heap = requests[parent].heap
        at = parent
    requests[at].heap = i


@njit
def _heap_pop(world: Any, requests: Any) -> int:
    top = requests[0].heap
    world.heap_size -= 1
    last = requests[world.heap_size].heap
    at = 0
    while True:
        child = 2 * at + 1
        if child >= world.heap_size:
            break
        if child + 1 < world.heap_size and _earlier(requests, requests[child + 1].heap, requests[child].heap):
            child += 1
        if not _earlier(requests, requests[child].heap, last):
            break
        requests[at].heap = requests[child].heap
        at = child
    requests[at].heap = last
    return int(top)


@inlined
def find_next_arrival(world: Any, requests: Any) -> None:
    """Note when the next request arrives (infinity when none is due)."""
    rows = len(requests)
    while world.next_row < rows and requests[world.next_row].after != AT_ARRIVAL:
        world.next_row += 1
    world.next_arrival_s = requests[world.next_row].arrival_s if world.next_row < rows else math.inf
    if world.heap_size > 0:
        world.next_arrival_s = min(world.next_arrival_s, requests[requests[0].heap].arrival_s)


@inlined
def pop_arrival(world: Any, requests: Any) -> int:
    """Take the request that arrives next; at equal times the one of the lower row."""
    row = world.next_row
    if world.heap_size > 0:
        top = requests[0].heap
        if row >= len(requests) or _earlier(requests, top, row):
            row = _heap_pop(world, requests)
            find_next_arrival(world, requests)
            return int(row)
    world.next_row += 1
    find_next_arrival(world, requests)
    return int(row)


@njit
def _release(world: Any, requests: Any, i: int) -> None:
    """Request i may arrive after its think time from now on."""
    requests[i].arrival_s = max(requests[i].arrival_s, world.now_s + requests[i].delay_s)
    _heap_push(world, requests, i)


@njit
def release_successors(world: Any, requests: Any, i: int) -> None:
    """Request i is done: those that waited for it, or for any request, may come."""
    j = requests[i].first_successor
    while j >= 0:
        _release(world, requests, j)
        j = requests[j].next_successor
    if world.next_any < world.any_rows:
        _release(world, requests, requests[world.next_any].any_row)
        world.next_any += 1
    find_next_arrival(world, requests)
