"""The order of candidates and the sentence for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from runs import made_run
from windtunnel.metrics.summary import metrics_of
from windtunnel.search.plan import without_idle_slots
from windtunnel.search.rank import closest_of, ranked, with_reasons
from windtunnel.search.result import Candidate
from windtunnel.specs.assemble import deployment
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.slo import parse_slo

SLO = parse_slo("ttft_p99<1s")


def candidate(outcome: Any = "meets", usd: float = 4.0, ttft_s: float = 0.5, **more: Any) -> Candidate:
    plan = more.pop("plan", PlanSpec())
    metrics = metrics_of(made_run(np.arange(50.0), ttft_s), SLO)
    found = deployment("llama-3.1-8b", "h100-sxm", plan=plan)
    return Candidate(found, outcome, usd_per_h=usd, metrics=metrics, **more)


def test_cost_then_capacity_then_less_quantisation() -> None:
    dear = candidate(usd=5.0, capacity_per_s=99.0)
    full = candidate(capacity_per_s=9.0)
    small = candidate(capacity_per_s=7.0)
    fewer_bits = candidate(capacity_per_s=9.0, plan=PlanSpec(weight_dtype="fp8", kv_dtype="fp8"))
    out = candidate("infeasible", usd=1.0)
    missing = candidate("misses", usd=1.0)
    assert ranked([out, dear, fewer_bits, missing, small, full]) == [full, fewer_bits, small, dear, missing, out]


def test_each_reason_says_why_it_lost() -> None:
    pick, small = candidate(capacity_per_s=9.0), candidate(capacity_per_s=7.0)
    same, dear = candidate(capacity_per_s=9.0), candidate(usd=6.0)
    late = candidate("misses", ttft_s=2.0, binding="TTFT p99: compute")
    reasons = [c.reason for c in with_reasons([pick, same, small, dear, late], SLO, 5.0)]
    assert reasons == [
        "cheapest deployment that holds every target",
        "costs the same as the pick and carries as much",
        "costs the same as the pick, takes 7.00 instead of 9.00 requests/s",
        "holds every target, 50% dearer than the pick",
        "misses TTFT p99 2 s (target 1 s); TTFT p99: compute",
    ]


def test_growing_queues_are_a_reason() -> None:
    wait = np.linspace(0.0, 100.0, 400)
    metrics = metrics_of(made_run(np.arange(400.0), wait + 0.5, wait_s=wait))
    slo = parse_slo("tpot_p99<50ms")
    late = replace(candidate("misses"), metrics=metrics)
    assert "queues grow" in with_reasons([late], slo, 1.0)[0].reason


def test_the_closest_carries_most() -> None:
    near, far = candidate("misses", ttft_s=1.1), candidate("misses", ttft_s=3.0)
    assert closest_of([far, near], SLO) is near
    carries = replace(far, capacity_per_s=4.0)
    assert closest_of([carries, near], SLO) is carries
    assert closest_of([candidate("dominated")], SLO) is None


def test_idle_slots_are_set_aside() -> None:
    def wide(capacity_per_s: float) -> Candidate:
        found = candidate(capacity_per_s=capacity_per_s, more_slots=True)
        engine = found.deployment.engine.model_copy(update={"max_num_seqs": 1024})
        return replace(found, deployment=found.deployment.model_copy(update={"engine": engine}))

    narrow = candidate(capacity_per_s=9.0)
    assert [c.outcome for c in without_idle_slots([narrow, wide(9.0)])] == ["meets", "dominated"]
    assert [c.outcome for c in without_idle_slots([narrow, wide(9.5)])] == ["meets", "meets"]
    assert [c.outcome for c in without_idle_slots([wide(9.0)])] == ["meets"]
    assert "of up to 1024 requests" in wide(9.0).label
