"""Serving one deployment: clipped to its context, fitted to what occurs, priced."""

from __future__ import annotations

import math

import numpy as np
import pytest

from windtunnel.cost.memory import memory_need
from windtunnel.errors import InfeasibleError
from windtunnel.search.evaluate import request_tokens
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import RequestTable, request_table


def traffic(prompt: int = 800, output: int = 60, count: int = 40) -> RequestTable:
    return request_table(np.arange(count) * 0.2, [prompt] * count, [output] * count)


def test_context_is_fitted_to_what_occurs() -> None:
    run = serve(deployment("llama-3.1-8b", "l4"), traffic())
    assert run.deployment.max_model_len == 1024
    assert run.metrics.finished == 40
    assert run.memory.fits


def test_context_that_was_set_stays() -> None:
    engine = resolve("engines", "vllm").model_copy(update={"max_model_len": 4096})
    assert serve(deployment("llama-3.1-8b", "h100-sxm", engine=engine), traffic()).deployment.max_model_len == 4096


def test_requests_beyond_the_context_are_clipped_and_told() -> None:
    engine = resolve("engines", "vllm").model_copy(update={"max_model_len": 512})
    run = serve(deployment("llama-3.1-8b", "h100-sxm", engine=engine), traffic(), notes=["said before"])
    assert run.notes[0] == "said before"
    assert any("clipped" in note or "cut" in note for note in run.notes)
    assert run.workload.prompt_mean_tokens == 512 - 60
    assert run.metrics.rejected == 0


def test_what_does_not_fit_shows_the_sum() -> None:
    with pytest.raises(InfeasibleError, match=r"llama-3\.1-70b on 1 x h100-sxm \(TP1 x1 bf16\) does not fit: weights"):
        serve(deployment("llama-3.1-70b", "h100-sxm"), traffic())


def test_price_is_that_of_all_accelerators() -> None:
    plan = PlanSpec(tensor_parallel=2, replicas=2)
    run = serve(deployment("llama-3.1-8b", "h100-sxm", plan=plan), traffic(), prices={"h100-sxm": 2.0})
    assert run.usd_per_h == 8.0
    assert run.usd_per_million_tokens == pytest.approx(8.0 / 3600 / run.metrics.total_tokens_per_s * 1e6)
    assert run.label == "4 x h100-sxm: TP2 x2 bf16"


def test_an_accelerator_without_price_is_served_and_told() -> None:
    own = resolve("accelerators", "h100-sxm").model_copy(update={"name": "own"})
    run = serve(deployment("llama-3.1-8b", own), traffic(), parse_slo("ttft<1s"))
    assert math.isnan(run.usd_per_h)
    assert any("no price is known" in note for note in run.notes)
    assert run.metrics.meets(run.slo)


@pytest.mark.parametrize("model", ["gpt-oss-20b", "gemma-3-27b"])
def test_windowed_layers_hold_what_requests_need(model: str) -> None:
    """Windowed layers keep their window of a request, so that more requests fit than if they kept it all."""
    long = traffic(prompt=6000)
    run = serve(deployment(model, "h100-sxm", plan=None), long)
    assert run.memory.kv_blocks == memory_need(run.deployment, request_tokens(long)).kv_blocks
    assert run.memory.kv_blocks > 1.2 * memory_need(run.deployment).kv_blocks
    assert run.simulation.settings.num_blocks == run.memory.kv_blocks


def test_steps_and_series_are_kept_when_asked() -> None:
    found = deployment("llama-3.1-8b", "h100-sxm")
    bare, full = serve(found, traffic()), serve(found, traffic(), record_steps=True, sample_interval_s=0.5)
    assert bare.simulation.step_table is None
    assert bare.simulation.series is None
    assert full.simulation.step_table is not None
    assert full.simulation.series is not None
    np.testing.assert_array_equal(bare.simulation.finish_s, full.simulation.finish_s)
