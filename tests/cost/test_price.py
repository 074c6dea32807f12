"""Operators priced one by one: sources, bounds, links between stages."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.price import links_of, price, pricing_of, seconds_of
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.expand import expand
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import Operator
from windtunnel.operators.transfer import transfer
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.plan import PlanSpec


def llama(plan: PlanSpec | None = None) -> DeploymentSpec:
    return deployment("llama-3.1-70b", "h100-sxm", plan=plan or PlanSpec(tensor_parallel=8))


def test_few_rows_wait_for_memory_and_many_for_the_matrix_units() -> None:
    device, links = pricing_of(llama())
    few, many = (price(matmul("mlp", "tokens", 1, m, 8192, 8192), device, links) for m in (1, 8192))
    assert (few.bound_by, many.bound_by) == ("memory", "compute")
    assert few.limit_s == pytest.approx(8192 * 8192 * 2 / 3.35e12, rel=1e-3)
    assert many.limit_s == pytest.approx(2 * 8192**3 / 989.4e12, rel=1e-3)
    assert few.flops == 2 * 8192 * 8192


def test_a_small_product_waits_for_neither() -> None:
    device, links = pricing_of(llama())
    assert price(matmul("router", "tokens", 1, 1, 64, 256), device, links).bound_by == "latency"


def test_products_in_one_kernel_cost_less_than_apart_and_more_than_one() -> None:
    device, links = pricing_of(llama())
    one = price(matmul("absorb", "decode", 1, 64, 512, 128), device, links).seconds
    together = price(matmul("absorb", "decode", 1, 64, 512, 128, batch=16), device, links).seconds
    assert one < together < 16 * one


@pytest.mark.parametrize("model", ["deepseek-v3", "deepseek-v3.2"])
def test_every_operator_prices_arrays_as_it_prices_numbers(model: str) -> None:
    case = deployment(model, "h200-sxm", plan=PlanSpec(tensor_parallel=8, expert_parallel=4, weight_dtype="fp8"))
    device, links = pricing_of(case)
    sizes, most = (1, 7, 200), case.model.attended_tokens
    batches = [decode_batch(n, 900, most) + prefill_batch([(100, 3 * n)], most) for n in sizes]
    for row in zip(*(expand(case.model, case.plan, batch) for batch in batches), strict=True):
        seconds = np.array([float(seconds_of(one, device, links)) for one in row])
        assert (np.diff(seconds) >= 0).all(), row[0].name
        assert (seconds > 0).all(), row[0].name


def test_an_unknown_operator_is_a_mistake() -> None:
    device, links = pricing_of(llama())
    with pytest.raises(AssertionError, match="no price for Operator"):
        price(Operator(name="x", part="tokens"), device, links)


@pytest.mark.parametrize(
    ("tensor", "pipeline", "crossing"),
    [(8, 1, 0.0), (4, 2, 0.0), (4, 4, 1 / 3), (8, 4, 1.0), (2, 8, 1 / 7), (16, 2, 1.0)],
)
def test_stage_boundaries_that_end_a_node(tensor: int, pipeline: int, crossing: float) -> None:
    plan = PlanSpec(tensor_parallel=tensor, pipeline_parallel=pipeline)
    assert links_of(llama(plan)).crossing == pytest.approx(crossing)


def test_a_hop_between_nodes_takes_longer() -> None:
    inside, across = (
        llama(PlanSpec(tensor_parallel=4, pipeline_parallel=2)),
        llama(PlanSpec(tensor_parallel=8, pipeline_parallel=2)),
    )
    hop = transfer("send", 1, 1e8)
    near, far = (float(seconds_of(hop, *pricing_of(case))) for case in (inside, across))
    assert far > 2 * near


def test_sources_are_named() -> None:
    device, links = pricing_of(llama())
    cost = price(matmul("mlp", "tokens", 1, 16, 8192, 8192), device, links)
    assert cost.source in ("calibrated", "datasheet")
    assert cost.source == device.provenance
