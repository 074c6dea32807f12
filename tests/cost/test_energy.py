from __future__ import annotations

import pytest

from windtunnel.cost.energy import energy_of, energy_shares, host_watts, joules_of, static_watts
from windtunnel.cost.price import pricing_of
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.matmul import matmul
from windtunnel.specs.assemble import deployment
from windtunnel.specs.plan import PlanSpec

LLAMA = deployment("llama-3.1-8b", "h100-sxm")


def test_a_device_busy_at_peak_draws_its_limit() -> None:
    device, links = pricing_of(LLAMA)
    energy, shares = energy_of(device, links.tensor), energy_shares()
    assert shares.compute_share + shares.memory_share >= 1.0
    for dtype in ("bf16", "fp8"):
        peak = device.peak_flops_per_s(dtype)
        watts = energy.flop_j(dtype) * peak + energy.byte_j * device.bandwidth_bytes_per_s
        assert min(watts, energy.dynamic_w) + device.accelerator.idle_w == device.accelerator.max_w


@pytest.mark.parametrize(
    "plan", [PlanSpec(), PlanSpec(tensor_parallel=8), PlanSpec(tensor_parallel=2, pipeline_parallel=2)]
)
def test_power_stays_between_idle_and_the_limit(plan: PlanSpec) -> None:
    found = deployment("llama-3.1-8b", "h100-sxm", plan=plan)
    for batch in (decode_batch(1, 100), decode_batch(256, 4000), prefill_batch([(0, 8192)])):
        step = price_step(found, batch)
        idle = plan.accelerators_per_replica * found.accelerator.idle_w
        assert step.static_w == static_watts(found) == idle
        watts = step.energy_j / step.total_s
        assert idle < watts <= plan.accelerators_per_replica * found.accelerator.max_w


def test_prefill_draws_more_than_decode() -> None:
    prefill, decode = (price_step(LLAMA, batch) for batch in (prefill_batch([(0, 8192)]), decode_batch(32, 1000)))
    assert prefill.joules / prefill.total_s > 1.1 * decode.joules / decode.total_s


def test_joules_of_a_product() -> None:
    device, links = pricing_of(LLAMA)
    energy = energy_of(device, links.tensor)
    product = matmul("product", "tokens", 1, 4096, 4096, 4096)
    flops, moved = 2 * 4096**3, 3 * 4096**2 * 2
    assert joules_of(product, energy) == pytest.approx(flops * energy.flop_j("bf16") + moved * energy.byte_j)


def test_share_of_the_server() -> None:
    whole = deployment("llama-3.1-8b", "h100-sxm", plan=PlanSpec(tensor_parallel=8))
    assert host_watts(whole) == whole.node.host_w
