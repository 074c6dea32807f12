"""A replica's waiting queue, threaded through the requests themselves.

First come first served is a linked list with pushes at both ends. An ordered queue (priority,
or any key) is a pairing heap on (key, arrival, tie), whose order is total, so any heap gives
the same sequence.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, njit


@njit
def before(requests: Any, a: int, b: int) -> bool:
    """Whether request a is served before request b in an ordered queue."""
    if requests[a].key != requests[b].key:
        return bool(requests[a].key < requests[b].key)
    if requests[a].arrival_s != requests[b].arrival_s:
        return bool(requests[a].arrival_s < requests[b].arrival_s)
    return bool(requests[a].tie < requests[b].tie)


@njit
def _meld(requests: Any, a: int, b: int) -> int:
    if a < 0:
        return b
    if b < 0:
        return a
    if before(requests, b, a):
        a, b = b, a
    requests[b].next = requests[a].child
    requests[a].child = b
    return a


@njit
def _pop_heap(requests: Any, root: int) -> int:
    """The heap without its root: children are melded in pairs, then the pairs into one."""
    child = requests[root].child
    pairs = -1
    while child >= 0:
        a = child
        b = requests[a].next
        child = requests[b].next if b >= 0 else -1
        requests[a].next = -1
        if b >= 0:
            requests[b].next = -1
        pair = _meld(requests, a, b)
        requests[pair].next = pairs
        pairs = pair
    if pairs < 0:
        return -1
    merged = pairs
    pairs = requests[merged].next
    requests[merged].next = -1
    while pairs >= 0:
        following = requests[pairs].next
        requests[pairs].next = -1
        merged = _meld(requests, merged, pairs)
        pairs = following
    return merged


@inlined
def push_back(world: Any, requests: Any, replica: Any, i: int) -> None:
    """A new arrival joins the queue."""
    requests[i].next = -1
    requests[i].child = -1
    if world.ordered:
        replica.head = _meld(requests, replica.head, i)
    elif replica.head < 0:
        replica.head = i
        replica.tail = i
    else:
        requests[replica.tail].next = i
        replica.tail = i
    replica.waiting += 1


@inlined
def hold_back(requests: Any, replica: Any, i: int) -> None:
    """A new arrival that the step composed next does not see: it waits, but joins the queue after that (`let_in`)."""
    requests[i].next = -1
    if replica.held == 0:
        replica.held_head = i
    else:
        requests[replica.held_tail].next = i
    replica.held_tail = i
    replica.held += 1
    replica.waiting += 1


@njit
def let_in(world: Any, requests: Any, replica: Any) -> None:
    """The arrivals held back (not in `waiting` while a step is composed) join the queue in their order."""
    i = replica.held_head
    for _ in range(replica.held):
        following = requests[i].next
        push_back(world, requests, replica, i)
        i = following
    replica.held = 0


@njit
def push_front(world: Any, requests: Any, replica: Any, i: int) -> None:
    """A preempted request returns to the front (in an ordered queue, to its place)."""
    if world.ordered or replica.head < 0:
        push_back(world, requests, replica, i)
        return
    requests[i].next = replica.head
    replica.head = i
    replica.waiting += 1


@njit
def pop_head(world: Any, requests: Any, replica: Any) -> int:
    """Take the request that is served next."""
    i = replica.head
    replica.head = _pop_heap(requests, i) if world.ordered else requests[i].next
    requests[i].next = -1
    requests[i].child = -1
    replica.waiting -= 1
    return int(i)


@njit
def bring_forward(requests: Any, replica: Any) -> None:
    """Make the first by (key, arrival, tie) the head of a queue that is a list."""
    best, before_best = replica.head, -1
    prev = replica.head
    if prev < 0:
        return
    i = requests[prev].next
    while i >= 0:
        if before(requests, i, best):
            best, before_best = i, prev
        prev = i
        i = requests[i].next
    if before_best >= 0:
        requests[before_best].next = requests[best].next
        if replica.tail == best:
            replica.tail = before_best
        requests[best].next = replica.head
        replica.head = best
