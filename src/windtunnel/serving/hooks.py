"""Hooks: the places where a policy of the user's own is asked, one function per question.

A hook is a C function `double hook(request *, replica *, world *, int64 a, int64 b)` whose
address stands in `world` (0: not given), so that the compiled loop stays the same whatever the
policy: the first arguments are records of `state.REQUEST`, `state.REPLICA` and `state.WORLD`.
`settings.HookAddresses` carries the addresses into a run. In a plain kernel the number is a
place in `plain.PYTHON_HOOKS` plus one, and the function gets the records themselves.

A hook that returns nan stops the run with status `HOOK_FAILED` (its wrapper keeps the reason).
"""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.jit import call_hook, njit
from windtunnel.serving.state import HOOK_FAILED


@njit
def _checked(world: Any, answer: float) -> float:
    if math.isnan(answer):
        world.status = HOOK_FAILED
    return answer


@njit
def waiting_key(world: Any, request: Any, replica: Any) -> float:
    """The waiting request with the smallest key is looked at first; equal ones by arrival."""
    if world.hook_order == 0:
        return 0.0
    return _checked(world, call_hook(world.hook_order, request, replica, world, 0, 0))


@njit
def victim_key(world: Any, request: Any, replica: Any, place: int, computed: int) -> float:
    """The running request with the largest key is preempted; of equal ones the last.

    Args:
        world, request, replica: records.
        place: its place in the running order.
        computed: tokens whose KV it holds.
    """
    if world.hook_victim == 0:
        return float(place)
    return _checked(world, call_hook(world.hook_victim, request, replica, world, place, computed))


@njit
def chunk_tokens(world: Any, request: Any, replica: Any, wanted: int, available: int) -> int:
    """Tokens of its prompt that the request gets in this step, cut to 0 .. min(wanted, available).

    Args:
        world, request, replica: records.
        wanted: tokens still to be computed.
        available: what is left of the step's budget.
    """
    most = min(wanted, available)
    if world.hook_chunk == 0:
        return most
    answer = _checked(world, call_hook(world.hook_chunk, request, replica, world, wanted, available))
    return int(max(0.0, min(answer, float(most)))) if answer == answer else 0


@njit
def admits(world: Any, request: Any, replica: Any, need: int, free: int) -> bool:
    """Whether a waiting request that fits is taken in now (above 0 is yes).

    Args:
        world, request, replica: records.
        need: KV blocks that its whole sequence so far needs beyond those found in the cache.
        free: KV blocks that are free.
    """
    if world.hook_admit == 0:
        return True
    return bool(_checked(world, call_hook(world.hook_admit, request, replica, world, need, free)) > 0.0)


@njit
def replica_key(world: Any, request: Any, replica: Any, index: int) -> float:
    """An arriving request goes to the replica with the smallest key."""
    if world.hook_route == 0:
        return float(replica.running + replica.waiting)
    return _checked(world, call_hook(world.hook_route, request, replica, world, index, 0))
