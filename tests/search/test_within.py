"""Bounds hold: no simulation does less work, makes tokens faster, or survives a backlog called hopeless."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.search.capacity import TOLERANCE, bracket
from windtunnel.search.demand import Demand, demands
from windtunnel.search.evaluate import Prediction, evaluate
from windtunnel.search.within import hopeless_backlog, least_busy_s, least_tpot_s
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import RequestTable, request_table

CASES = [
    ("llama-3.1-8b", "l4", {"weight_dtype": "fp8"}),
    ("llama-3.1-8b", "h100-sxm", {"tensor_parallel": 2, "replicas": 2}),
    ("llama-3.1-8b", "a100-80g-sxm", {"pipeline_parallel": 4}),
    ("qwen3-30b-a3b", "h200-sxm", {"tensor_parallel": 2, "expert_parallel": 2}),
    ("gemma-3-27b", "h100-sxm", {"tensor_parallel": 2, "weight_dtype": "fp8"}),
    ("gpt-oss-20b", "l40s", {"weight_dtype": "mxfp4"}),
]
SLOS = [
    "ttft_p99<2s,tpot_p99<60ms",
    "ttft_p90<500ms",
    "e2e_p95<30s",
    "ttft<1s,tpot<50ms,attainment>=80%",
    "ttft_mean<300ms",
]


def traffic(rate_per_s: float, count: int = 250, seed: int = 5) -> RequestTable:
    rng = np.random.default_rng(seed)
    prompt = np.clip(rng.lognormal(6.3, 1.0, count), 16, 6000).astype(np.int64)
    output = np.clip(rng.lognormal(4.5, 0.8, count), 1, 1000).astype(np.int64)
    return request_table(np.cumsum(rng.exponential(1.0 / rate_per_s, count)), prompt, output)


@cache
def deployed(case: int) -> DeploymentSpec:
    model, accelerator, plan = CASES[case]
    engine = resolve("engines", "vllm").model_copy(update={"max_model_len": 8192})
    return deployment(model, accelerator, plan=PlanSpec(**plan), engine=engine)


@cache
def served(case: int, rate_per_s: float) -> Prediction:
    return evaluate(deployed(case), traffic(rate_per_s), parse_slo("ttft<1s"))


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("rate_per_s", [0.5, 5.0, 50.0, 1000.0])
def test_no_run_works_less_than_the_bound(case: int, rate_per_s: float) -> None:
    surface, workload = step_surface(deployed(case)), traffic(rate_per_s)
    work = Demand(workload.prompt_tokens, workload.output_tokens, 1.0)
    done = served(case, rate_per_s).simulation
    assert done.finished.all()
    assert 0 < least_busy_s(surface, work, cached=True) <= least_busy_s(surface, work)
    assert least_busy_s(surface, work) <= done.busy_s.sum() * (1 + 1e-9)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_no_run_makes_tokens_faster_than_the_bound(case: int) -> None:
    tpot_s = served(case, 0.5).simulation.tpot_s
    least = float(np.nanmin(tpot_s))
    bound = least_tpot_s(step_surface(deployed(case)))
    assert 0.3 * least < bound <= least * (1 + 1e-9)


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("slo", SLOS)
def test_what_holds_its_targets_does_the_demanded_work_in_time(case: int, slo: str) -> None:
    targets, surface = parse_slo(slo), step_surface(deployed(case))
    for rate_per_s in (0.5, 5.0, 50.0):
        workload = traffic(rate_per_s)
        if evaluate(deployed(case), workload, targets).metrics.meets(targets):
            for demand in demands(workload, targets):
                replicas = deployed(case).plan.replicas
                assert least_busy_s(surface, demand) <= replicas * demand.horizon_s * (1 + 1e-9)


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("slo", SLOS)
def test_giving_up_changes_no_verdict(case: int, slo: str) -> None:
    targets, found = parse_slo(slo), deployed(case)
    for rate_per_s in (5.0, 50.0, 1000.0):
        workload = traffic(rate_per_s)
        limit = hopeless_backlog(step_surface(found), workload, targets, found.engine.max_num_seqs)
        if limit is not None:
            whole = evaluate(found, workload, targets)
            assert evaluate(found, workload, targets, max_waiting=limit).metrics.meets(targets) == whole.metrics.meets(
                targets
            )


def test_a_hopeless_run_ends_early() -> None:
    found, workload, targets = deployed(0), traffic(1000.0, 1000), parse_slo("ttft_p90<500ms")
    limit = hopeless_backlog(step_surface(found), workload, targets, found.engine.max_num_seqs)
    assert limit is not None
    ended = evaluate(found, workload, targets, max_waiting=limit).simulation
    assert ended.stop == "overload"
    assert ended.makespan_s < 0.2 * evaluate(found, workload, targets).simulation.makespan_s


def test_more_replicas_carry_no_less() -> None:
    """By more than the bracket's tolerance; per replica the gain stays near one more replica's worth."""
    targets, capacity = parse_slo("ttft_p95<2s,tpot_p95<60ms"), []
    for replicas in (1, 2, 3, 4):
        plan = PlanSpec(replicas=replicas, weight_dtype="fp8")
        engine = deployed(0).engine
        found = deployment("llama-3.1-8b", "l4", plan=plan, engine=engine)

        def holds_at(rate: float, found: DeploymentSpec = found) -> bool:
            return evaluate(found, traffic(rate, 400), targets).metrics.meets(targets)

        capacity.append(bracket(holds_at).holds)
    assert all(later >= earlier * (1 - TOLERANCE) for earlier, later in pairwise(capacity))
    assert capacity[3] > 2.0 * capacity[0] > 0.0
    assert math.isfinite(capacity[3])
