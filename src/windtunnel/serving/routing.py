"""Routing: to which replica an arriving request goes."""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, mix, njit

ROUTERS = ("round_robin", "random", "least_outstanding", "least_kv", "power_of_two")
"""Names of the routers; the place in this tuple is the number that the kernel knows.

`round_robin` takes turns. `random` draws evenly. `least_outstanding` takes the replica with
the fewest requests running or waiting, `least_kv` the one with the fewest KV blocks in use
and wanted by its queue's length; ties go to the lowest number. `power_of_two` draws two
replicas and takes the one with fewer requests (Mitzenmacher, "The power of two choices in
randomized load balancing", IEEE TPDS 2001).
"""

ROUND_ROBIN, RANDOM, LEAST_OUTSTANDING, LEAST_KV, POWER_OF_TWO = range(5)


@njit
def _draw(world: Any, count: int) -> int:
    """A number below `count` from the run's seeded sequence."""
    world.draws += 1
    return int((mix(world.seed, world.draws) & 0x7FFFFFFF) % count)


@njit
def _outstanding(replica: Any) -> int:
    return int(replica.running + replica.waiting)


@inlined
def route(world: Any, replicas: Any) -> int:
    """The replica for the request that arrives now."""
    count = world.replicas
    if count == 1:
        return 0
    if world.router == ROUND_ROBIN:
        world.draws += 1
        return int((world.draws - 1) % count)
    if world.router == RANDOM:
        return _draw(world, count)
    if world.router == POWER_OF_TWO:
        first = _draw(world, count)
        second = (first + 1 + _draw(world, count - 1)) % count
        return second if _outstanding(replicas[second]) < _outstanding(replicas[first]) else first
    best = 0
    if world.router == LEAST_OUTSTANDING:
        for r in range(1, count):
            if _outstanding(replicas[r]) < _outstanding(replicas[best]):
                best = r
        return best
    for r in range(1, count):
        if replicas[r].waiting != replicas[best].waiting:
            if replicas[r].waiting < replicas[best].waiting:
                best = r
        elif replicas[r].free_blocks > replicas[best].free_blocks:
            best = r
    return best
