"""Costs at the ends of their intervals: all operators move by their class's factor, and the prediction lies between."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.price import pricing_of, seconds_of
from windtunnel.cost.steps import price_step
from windtunnel.cost.surface import context_grid
from windtunnel.cost.uncertainty import bands_of, engine_at, factor
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.expand import expand
from windtunnel.operators.matmul import Matmul
from windtunnel.specs.assemble import deployment
from windtunnel.specs.plan import PlanSpec

BATCH = decode_batch(32, 1024) + prefill_batch([(0, 512)])


@pytest.mark.parametrize("at", [-1.0, -0.5, 0.5, 1.0])
def test_every_product_moves_by_the_factor_of_its_class(at: float) -> None:
    given = deployment("llama-3.1-8b", "h100-sxm")
    device, links = pricing_of(given)
    moved, moved_links = pricing_of(given, at=at)
    by = factor(bands_of(device), "gemm.bf16", at)
    for one in expand(given.model, given.plan, decode_batch(64, 2048)):
        if isinstance(one, Matmul):
            ratio = seconds_of(one, moved, moved_links) / seconds_of(one, device, links)
            np.testing.assert_allclose(ratio, by, rtol=1e-9)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3"])
@pytest.mark.parametrize("accelerator", ["h100-sxm", "mi300x"])
def test_the_prediction_lies_between_its_ends(model: str, accelerator: str) -> None:
    given = deployment(model, accelerator, plan=PlanSpec(tensor_parallel=8))
    low, nominal, high = (price_step(given, BATCH, at=at).total_s for at in (-1.0, 0.0, 1.0))
    assert low < nominal < high


def test_a_datasheet_alone_says_less_than_measured_kernels() -> None:
    def width(accelerator: str) -> float:
        given = deployment("llama-3.1-8b", accelerator)
        low, high = (price_step(given, BATCH, at=at).total_s for at in (-1.0, 1.0))
        return high / low

    assert width("mi300x") > 1.3 * width("h100-sxm")


@pytest.mark.parametrize("at", [-1.0, 1.0])
def test_the_surface_leans_as_the_operators_do(at: float) -> None:
    given = deployment("llama-3.1-8b", "h100-sxm")
    low, nominal = step_surface(given, at=at), step_surface(given)
    nothing = step_surface(given, at=0.0)
    assert np.array_equal(nothing.token_s, nominal.token_s)
    here = price_step(given, decode_batch(32, 1024), at=at)
    column = int(np.searchsorted(context_grid(2**17), 1024.0))
    surface_s = low.token_s[32] + low.sample_s[32] + low.decode_s[32, column]
    assert surface_s + low.host_s + 32 * low.host_request_s == pytest.approx(here.total_s, rel=0.01)


def test_the_engine_leans_with_its_kernels() -> None:
    engine = deployment("llama-3.1-8b", "h100-sxm").engine
    assert engine_at(engine, 0.0) is engine
    assert engine_at(engine, 1.0).step_host_s >= engine.step_host_s >= engine_at(engine, -1.0).step_host_s
