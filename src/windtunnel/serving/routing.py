"""Routing: to which replica an arriving request goes."""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, mix, njit

ROUTERS = ("round_robin", "random", "least_outstanding", "least_kv", "power_of_two", "custom")
"""Names of the routers; the place in this tuple is the number that the kernel knows.

`round_robin` takes turns. `random` draws evenly. `least_outstanding` takes the replica with
the fewest requests running or waiting, `least_kv` the one with the shortest queue and, among
equals, the fewest KV blocks in use; ties go to the lowest number. `power_of_two` draws two
replicas and takes the one with fewer requests (Mitzenmacher, "The power of two choices in
randomized load balancing", IEEE TPDS 2001). `custom` takes the replica for which the user's hook
returns the smallest number (`custom_routing.py`); ties go to the lowest number.
"""

ROUND_ROBIN, RANDOM, LEAST_OUTSTANDING, LEAST_KV, POWER_OF_TWO = range(5)


@njit
def _draw(world: Any, count: int) -> int:
    """A number below `count` from the run's seeded sequence."""
    world.draws += 1
    return int((mix(world.seed, world.draws) & 0x7FFFFFFF) % count)


@inlined
def route(world: Any, requests: Any, replicas: Any, i: int) -> int:
    """The replica for request i, which arrives now."""
    count = world.replicas
    if count == 1:
        return 0
    if world.router == ROUND_ROBIN:
        world.draws += 1
        return int((world.draws - 1) % count)
    first = _draw(world, count) if world.router != LEAST_OUTSTANDING and world.router != LEAST_KV else 0
    if world.router == RANDOM:
        return first
    if world.router == POWER_OF_TWO:
        second = (first + 1 + _draw(world, count - 1)) % count
        one, other = replicas[first], replicas[second]
        return second if other.running + other.waiting < one.running + one.waiting else first
    best = 0
    for r in range(1, count):
        one, other = replicas[best], replicas[r]
        if world.router == LEAST_OUTSTANDING:
            better = other.running + other.waiting < one.running + one.waiting
        else:
            better = other.waiting < one.waiting or (
                other.waiting == one.waiting and other.free_blocks > one.free_blocks
            )
        if better:
            best = r
    return best
