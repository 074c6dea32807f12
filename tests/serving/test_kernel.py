"""Kernels per scheduler: named, compiled or plain in one process, with hooks by address."""

from __future__ import annotations

import random
from dataclasses import replace

import numba
import pytest

from scenarios import digest, random_run, random_workload, small_surface
from windtunnel.cost.surface import linear_surface
from windtunnel.errors import PolicyError, SpecError
from windtunnel.serving import plain, state
from windtunnel.serving.arrays import build
from windtunnel.serving.jit import DISABLED, config
from windtunnel.serving.kernel import kernel
from windtunnel.serving.run import HookAddresses, SchedulerSettings, run

RECORDS = [numba.types.CPointer(numba.from_dtype(d)) for d in (state.REQUEST, state.REPLICA, state.WORLD)]
HOOK = numba.types.float64(*RECORDS, numba.types.int64, numba.types.int64)
CUSTOM = SchedulerSettings(4, 64, 400, 120, 8, scheduler="custom")


def test_a_kernel_is_made_once() -> None:
    assert kernel("vllm") is kernel("vllm")
    assert not kernel("vllm", compiled=False).compiled
    with pytest.raises(SpecError, match="did you mean 'vllm'"):
        kernel("vlm")
    with pytest.raises(SpecError, match="unknown scheduler"):
        SchedulerSettings(1, 1, 1, 2, scheduler="fastest")


@pytest.mark.parametrize("seed", range(8))
def test_plain_and_compiled_agree_in_one_process(seed: int) -> None:
    assert digest(random_run(seed)) == digest(random_run(seed, compiled=False))


@pytest.mark.skipif(DISABLED or not config.BOUNDSCHECK, reason="for code that is compiled with NUMBA_BOUNDSCHECK=1")
def test_bounds_are_checked_where_asked_for() -> None:
    """The kernel that was kept without checks must not be the one that runs."""
    workload = random_workload(random.Random(5), linked=False, shared=False)
    arrays = build(workload, small_surface(), SchedulerSettings(4, 64, 400, 120, 8), 1, "round_robin", 0)
    too_short = replace(arrays, token_cost=arrays.token_cost[:1])
    with pytest.raises(IndexError):
        kernel().run_loop(*too_short.arguments(True))


@pytest.mark.parametrize("seed", range(8))
def test_without_hooks_custom_does_what_vllm_does(seed: int) -> None:
    workload = random_workload(random.Random(seed), linked=False, shared=False)
    custom, usual = (
        run(workload, linear_surface(1e-3, 1e-5), SchedulerSettings(4, 64, 400, 30, 8, scheduler=name), compiled=False)
        for name in ("custom", "vllm")
    )
    assert digest(custom) == digest(usual)


@pytest.mark.skipif(DISABLED, reason="needs compilation")
def test_hooks_are_asked_compiled_and_plain() -> None:
    workload = random_workload(random.Random(5), linked=False, shared=False)
    surface = linear_surface(1e-3, 1e-5)
    address = numba.cfunc(HOOK)(
        lambda request, replica, world, a, b: -float(numba.carray(request, 1)[0].prompt)
    ).address
    compiled = run(workload, surface, CUSTOM, hooks=HookAddresses(order=address))
    plain.PYTHON_HOOKS.append(lambda request, replica, world, a, b: -float(request.prompt))
    by_place = HookAddresses(order=len(plain.PYTHON_HOOKS))
    assert digest(compiled) == digest(run(workload, surface, CUSTOM, hooks=by_place, compiled=False))
    assert digest(compiled) != digest(run(workload, surface, CUSTOM))


def test_a_hook_that_returns_nan_stops_the_run() -> None:
    workload = random_workload(random.Random(5), linked=False, shared=False)
    plain.PYTHON_HOOKS.append(lambda request, replica, world, a, b: float("nan"))
    failing = len(plain.PYTHON_HOOKS)
    for name in ("order", "chunk", "admit"):
        with pytest.raises(PolicyError, match="hook"):
            run(workload, linear_surface(1e-3), CUSTOM, hooks=HookAddresses(**{name: failing}), compiled=False)


def test_a_policy_that_admits_nobody_is_refused() -> None:
    workload = random_workload(random.Random(5), linked=False, shared=False)
    plain.PYTHON_HOOKS.append(lambda request, replica, world, a, b: 0.0)
    nobody = HookAddresses(admit=len(plain.PYTHON_HOOKS))
    with pytest.raises(PolicyError, match="idle while requests wait"):
        run(workload, linear_surface(1e-3), CUSTOM, hooks=nobody, compiled=False)
