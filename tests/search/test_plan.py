"""The search against a look at everything: the same answer, a reason for each candidate, and honest endings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from windtunnel.cost.memory import memory_need
from windtunnel.cost.money import deployment_usd_per_h
from windtunnel.search.evaluate import evaluate, request_tokens
from windtunnel.search.plan import search_plans
from windtunnel.search.question import Question
from windtunnel.search.result import PlanResult
from windtunnel.search.space import units
from windtunnel.specs.load import resolve
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import RequestTable, request_table

SLO = "ttft_p99<2s,tpot_p99<60ms"


def traffic(rate_per_s: float = 6.0, count: int = 300) -> RequestTable:
    """Poisson arrivals of lognormal lengths."""
    rng = np.random.default_rng(11)
    prompt = np.clip(rng.lognormal(6.3, 0.8, count), 16, 4000).astype(np.int64)
    output = np.clip(rng.lognormal(4.8, 0.6, count), 1, 1000).astype(np.int64)
    return request_table(np.cumsum(rng.exponential(1.0 / rate_per_s, count)), prompt, output)


def question(slo: str = SLO, **changes: Any) -> Question:
    given: dict[str, Any] = {
        "model": resolve("models", "llama-3.1-8b"),
        "workload": traffic(),
        "slo": parse_slo(slo),
        "accelerators": (resolve("accelerators", "l40s"), resolve("accelerators", "h100-sxm")),
        "max_accelerators": 2,
        "engine": resolve("engines", "vllm"),
    }
    return Question(**{**given, **changes})


def cheapest_of_all(asked: Question) -> float:
    """Least dollars per hour of every deployment that holds the targets, each one simulated to its end."""
    best = math.inf
    for unit in units(asked):
        memory = memory_need(unit.deployment, request_tokens(asked.workload))
        if unit.problem or not memory.fits:
            continue
        for replicas in range(1, asked.max_accelerators // unit.deployment.plan.accelerators + 1):
            plan = unit.deployment.plan.model_copy(update={"replicas": replicas})
            deployment = unit.deployment.model_copy(update={"plan": plan})
            usd = deployment_usd_per_h(deployment, overrides=asked.prices)
            if usd < best and evaluate(deployment, asked.workload, asked.slo, memory=memory).metrics.meets(asked.slo):
                best = usd
    return best


def summary(result: PlanResult) -> list[tuple[Any, ...]]:
    return [(c.label, c.outcome, c.reason, c.usd_per_h, repr(c.capacity_per_s)) for c in result.candidates]


@pytest.fixture(scope="module")
def answer() -> PlanResult:
    return search_plans(question())


@pytest.mark.parametrize(
    ("slo", "rate_per_s"),
    [
        (SLO, 6.0),
        ("ttft_p99<1s,tpot_p99<35ms", 6.0),
        ("ttft_p95<3s,tpot_p95<80ms", 25.0),
        ("e2e_p99<20s", 12.0),
        ("ttft<2s,tpot<60ms,attainment>=95%", 12.0),
        ("ttft_mean<500ms", 12.0),
        ("tpot_p50<25ms", 3.0),
        # A burst that may be worked off long after it came.
        ("e2e_p99<90s", 200.0),
        ("ttft_p99<40s", 200.0),
        ("tpot_p99<200ms", 200.0),
    ],
)
def test_pick_is_the_cheapest_of_all(slo: str, rate_per_s: float) -> None:
    asked = question(slo, workload=traffic(rate_per_s, 200))
    result = search_plans(asked)
    best = cheapest_of_all(asked)
    assert (result.pick.usd_per_h if result.pick else math.inf) == pytest.approx(best)


def test_pick_is_the_cheapest_that_meets(answer: PlanResult) -> None:
    assert answer.pick is not None
    assert answer.closest is None
    meeting = [c for c in answer.candidates if c.outcome == "meets"]
    assert answer.pick is answer.candidates[0]
    assert answer.pick.usd_per_h == min(c.usd_per_h for c in meeting)
    assert answer.pick.metrics is not None
    assert answer.pick.metrics.meets(answer.slo)
    assert answer.simulation is not None
    assert answer.simulation.series is not None


def test_every_candidate_has_a_reason_and_what_it_takes(answer: PlanResult) -> None:
    assert not answer.interrupted
    for candidate in answer.candidates:
        assert candidate.reason, candidate.label
        assert candidate.usd_per_h > 0
        if candidate.outcome in ("meets", "misses"):
            assert candidate.metrics is not None
            assert candidate.binding
            assert candidate.usd_per_million_tokens > 0
        if candidate.outcome == "meets":
            assert candidate.metrics is not None
            assert candidate.metrics.meets(answer.slo)


def test_candidates_are_ranked(answer: PlanResult) -> None:
    order = ["meets", "misses", "skipped", "dominated", "infeasible"]
    places = [order.index(c.outcome) for c in answer.candidates]
    assert places == sorted(places)
    costs = [c.usd_per_h for c in answer.candidates if c.outcome == "meets"]
    assert costs == sorted(costs)


def test_capacity_of_the_pick_is_at_least_the_traffic(answer: PlanResult) -> None:
    assert answer.pick is not None
    assert answer.pick.capacity_per_s >= answer.workload.rate_per_s * 0.999
    deployment, slo = answer.pick.deployment, answer.slo
    held = traffic().with_rate(answer.pick.capacity_per_s / answer.workload.rate_per_s)
    memory = answer.pick.memory
    assert evaluate(deployment, held, slo, memory=memory).metrics.meets(slo)
    assert not evaluate(deployment, held.with_rate(1.1), slo, memory=memory).metrics.meets(slo)


def test_front_holds_the_pick_and_nothing_that_misses(answer: PlanResult) -> None:
    assert answer.pareto
    assert all(answer.candidates[i].outcome == "meets" for i in answer.pareto)
    cheapest = min(answer.candidates[i].usd_per_h for i in answer.pareto)
    assert answer.pick is not None
    assert cheapest == answer.pick.usd_per_h


def test_two_searches_agree_whatever_the_threads(answer: PlanResult) -> None:
    assert summary(search_plans(question(), workers=1)) == summary(answer)


def test_own_price_changes_the_pick(answer: PlanResult) -> None:
    assert answer.pick is not None
    dear = {answer.pick.deployment.accelerator.name: 1000.0}
    other = search_plans(question(prices=dear)).pick
    assert other is not None
    assert other.deployment.accelerator.name != answer.pick.deployment.accelerator.name


def test_targets_that_nothing_meets() -> None:
    result = search_plans(question("ttft_p99<100ms,tpot_p99<6ms", workload=traffic(60.0, 200)))
    assert result.pick is None
    assert result.closest is not None
    assert result.closest.metrics is not None
    assert result.closest.reason
    assert result.closest.binding
    assert not any(c.outcome == "meets" for c in result.candidates)


def test_targets_beyond_the_hardware() -> None:
    result = search_plans(question("tpot_p99<1ms"))
    assert result.pick is None
    ruled_out = [c for c in result.candidates if c.outcome == "dominated"]
    assert any("TPOT cannot go below" in c.reason for c in ruled_out)


def test_a_model_that_fits_nowhere() -> None:
    result = search_plans(question(model=resolve("models", "llama-3.1-405b"), max_accelerators=1))
    assert result.pick is None
    assert result.closest is None
    assert {c.outcome for c in result.candidates} == {"infeasible"}
    assert any("does not fit" in c.reason for c in result.candidates)


def test_interruption_keeps_the_best_so_far() -> None:
    def stop(done: int, count: int, what: str) -> None:
        if done == 9:
            raise KeyboardInterrupt

    result = search_plans(question(), progress=stop)
    assert result.interrupted
    assert any(c.outcome == "skipped" for c in result.candidates)
    assert any(c.metrics is not None for c in result.candidates)
    assert all(c.reason for c in result.candidates)
    assert result.pick is not None


def test_an_error_in_a_thread_comes_through() -> None:
    def fail(done: int, count: int, what: str) -> None:
        raise RuntimeError("broken callback")

    with pytest.raises(RuntimeError, match="broken callback"):
        search_plans(question(), progress=fail)


def test_progress_counts_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    search_plans(question(), progress=lambda done, count, what: seen.append((done, count)))
    assert seen[-1][0] == seen[-1][1]
    assert all(1 <= done <= count for done, count in seen)
