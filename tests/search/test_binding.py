"""What binds: the parts add up to the time they explain, and the cause is the one that was built in."""

from __future__ import annotations

import numpy as np
import pytest

from runs import made_run
from windtunnel.metrics.summary import metrics_of
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.search.binding import (
    QUEUE_BUSY,
    QUEUE_KV,
    QUEUE_SLOTS,
    binding,
    nearest_target,
    step_shares,
    time_at_target,
)
from windtunnel.search.evaluate import Prediction, evaluate
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.slo import SloSpec, Target, parse_slo
from windtunnel.workload.table import request_table


def deployed(accelerator: str = "h100-sxm", **engine: object) -> DeploymentSpec:
    settings = resolve("engines", "vllm").model_copy(update={"max_model_len": 8192, **engine})
    plan = PlanSpec(weight_dtype="fp8") if accelerator == "l4" else PlanSpec()
    return deployment("llama-3.1-8b", accelerator, plan=plan, engine=settings)


def served(found: DeploymentSpec, rate_per_s: float, prompt: int, output: int, slo: SloSpec) -> Prediction:
    draw = np.random.default_rng(4)
    arrival = np.cumsum(draw.exponential(1.0 / rate_per_s, 400))
    return evaluate(found, request_table(arrival, [prompt] * 400, [output] * 400), slo)


@pytest.mark.parametrize("text", ["ttft_p99<1s", "tpot_p90<1s", "e2e_mean<1s", "ttft_p50<1s"])
def test_parts_add_up_to_the_time_of_the_slowest(text: str) -> None:
    slo, found = parse_slo(text), deployed()
    done = served(found, 20.0, 900, 120, slo)
    (target,) = slo.targets
    values = {"ttft": done.simulation.ttft_s, "tpot": done.simulation.tpot_s, "e2e": done.simulation.e2e_s}
    slowest = values[target.metric]
    if target.statistic != "mean":
        slowest = slowest[slowest >= np.quantile(slowest, float(target.statistic[1:]) / 100.0, method="higher")]
    seconds = time_at_target(done.simulation, found, target)
    assert sum(seconds.values()) == pytest.approx(float(slowest.mean()))
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)


@pytest.mark.parametrize(
    ("engine", "prompt", "output", "cause"),
    [
        ({"max_num_seqs": 8}, 200, 200, QUEUE_SLOTS),
        ({"memory_utilization": 0.30}, 4000, 600, QUEUE_KV),
        ({}, 6000, 2, QUEUE_BUSY),
    ],
)
def test_what_keeps_requests_waiting(engine: dict[str, object], prompt: int, output: int, cause: str) -> None:
    slo, found = parse_slo("ttft_p99<1s"), deployed(**engine)
    done = served(found, 60.0, prompt, output, slo)
    assert next(iter(time_at_target(done.simulation, found, slo.targets[0]))) == cause
    assert binding(done.metrics, done.simulation, found, slo).startswith(f"TTFT p99: {cause} (")


def test_decode_waits_for_memory_and_prefill_for_compute() -> None:
    found = deployed("l4")
    assert next(iter(step_shares(found, decode_batch(8, 1000)))) == "memory bandwidth"
    assert next(iter(step_shares(found, prefill_batch([(0, 2048)])))) == "compute"
    assert sum(step_shares(found, decode_batch(8, 1000)).values()) == pytest.approx(1.0)


def test_the_nearest_target_is_the_one_with_least_room() -> None:
    slo = parse_slo("ttft_p99<1s,tpot_p99<20ms,e2e_p99<100s")
    metrics = metrics_of(made_run(np.arange(100.0), 0.5, 0.019))
    assert str(nearest_target(metrics, slo)) == "TPOT p99 < 20 ms"
    assert nearest_target(metrics, SloSpec()) is None
    single = metrics_of(made_run(np.arange(100.0), 0.5, output=1))
    assert str(nearest_target(single, slo)) == "TTFT p99 < 1 s"


def test_a_run_that_served_nobody_has_no_parts() -> None:
    nobody = made_run(np.arange(5.0), np.full(5, np.nan))
    assert time_at_target(nobody, deployed(), Target(metric="ttft", limit_s=1.0)) == {}
