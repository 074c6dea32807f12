from __future__ import annotations

import numba
import numpy as np
import pytest

from windtunnel.cost.surface import linear_surface
from windtunnel.errors import PolicyError
from windtunnel.serving.jit import DISABLED
from windtunnel.serving.policy import Policy
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.testing import ROOMY, TIGHT, check_policy, random_workload, violations

SURFACE = linear_surface(1e-3, 1e-5)


def arrival(request):  # type: ignore[no-untyped-def]
    return request.arrival_s


def fewest_left(request):  # type: ignore[no-untyped-def]
    return request.output - request.generated


def test_vllm_conforms() -> None:
    found = check_policy("vllm", runs=2)
    assert found.preemptions > 0


def test_a_policy_of_functions_conforms_and_is_compiled() -> None:
    policy = Policy(order=arrival, victim=lambda request, place: place, admit=lambda need, free: free - need >= 2)
    check_policy(policy, runs=2)
    assert policy.notes == []


def test_compiled_functions_and_python_functions_decide_alike() -> None:
    workload = random_workload(np.random.default_rng(3))
    compiled, python = (Policy(order=fewest_left, starves=True, compiled=how) for how in (True, False))
    one, other = (run(workload, SURFACE, TIGHT, policy=policy) for policy in (compiled, python))
    np.testing.assert_array_equal(one.finish_s, other.finish_s)
    assert not np.array_equal(one.finish_s, run(workload, SURFACE, TIGHT).finish_s)


@pytest.mark.skipif(DISABLED, reason="nothing is compiled")
def test_a_function_that_cannot_be_compiled_is_called_with_a_note() -> None:
    seen: dict[str, float] = {}

    def remembering(request):  # type: ignore[no-untyped-def]
        seen[str(request.prompt)] = 1.0
        return request.arrival_s

    policy = Policy(order=remembering)
    run(random_workload(np.random.default_rng(3)), SURFACE, TIGHT, policy=policy)
    assert seen
    assert "called through Python" in policy.notes[0]


@pytest.mark.parametrize("compiled", [True, False])
def test_an_exception_names_the_line(compiled: bool) -> None:
    def broken(request):  # type: ignore[no-untyped-def]
        return [1.0][int(request.prompt) + 5]  # the line that is named

    with pytest.raises(PolicyError) as caught:
        run(random_workload(np.random.default_rng(1)), SURFACE, ROOMY, policy=Policy(order=broken, compiled=compiled))
    assert "IndexError" in str(caught.value)
    assert "test_testing.py" in str(caught.value)
    assert "the line that is named" in str(caught.value)


@pytest.mark.parametrize("compiled", [True, False])
def test_nan_is_no_answer(compiled: bool) -> None:
    policy = Policy(order=lambda request: float("nan"), compiled=compiled)
    with pytest.raises(PolicyError, match="order answered nan"):
        run(random_workload(np.random.default_rng(1)), SURFACE, ROOMY, policy=policy)


def test_wrong_arguments_are_named_together() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(order=lambda reqest: 0.0, admit=lambda freee: True)
    assert "did you mean 'request'" in str(caught.value)
    assert "did you mean 'free'" in str(caught.value)


def test_a_policy_that_admits_nobody_is_found() -> None:
    with pytest.raises(PolicyError, match="idle while requests wait"):
        check_policy(Policy(admit=lambda free: False), runs=1)


def test_starvation_is_found_unless_declared() -> None:
    found = violations(Policy(order=fewest_left), runs=1)
    assert any(text.startswith("starvation") for text in found.violations)
    assert violations(Policy(order=fewest_left, starves=True), runs=1).violations == ()


def test_routing_alone_keeps_vllms_scheduler() -> None:
    workload = random_workload(np.random.default_rng(2))
    policy = Policy(route=lambda replica, index: replica.running + replica.waiting + 0.001 * index)
    assert policy.scheduler == "vllm"
    settings = SchedulerSettings(8, 128, 400, 400, 8)
    own = run(workload, SURFACE, settings, replicas=3, policy=policy)
    usual = run(workload, SURFACE, settings, replicas=3, router="least_outstanding")
    np.testing.assert_array_equal(own.replica, usual.replica)


def test_numba_functions_are_taken_too() -> None:
    policy = Policy(order=numba.njit(lambda request: -request.prompt))
    workload = random_workload(np.random.default_rng(4))
    plain = Policy(order=lambda request: -request.prompt)
    one, other = (run(workload, SURFACE, TIGHT, policy=policy) for policy in (policy, plain))
    np.testing.assert_array_equal(one.finish_s, other.finish_s)
