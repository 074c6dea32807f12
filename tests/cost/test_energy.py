from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.energy import capped, energy_of, energy_shares, host_watts, joules_of, static_watts
from windtunnel.cost.memory import memory_need
from windtunnel.cost.price import pricing_of
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.matmul import matmul
from windtunnel.operators.moe import Experts
from windtunnel.search.evaluate import settings_of
from windtunnel.serving.run import run
from windtunnel.specs.assemble import deployment
from windtunnel.specs.plan import PlanSpec
from windtunnel.workload.table import request_table

LLAMA = deployment("llama-3.1-8b", "h100-sxm")


def test_a_device_busy_at_peak_draws_its_limit() -> None:
    device, links = pricing_of(LLAMA)
    energy, shares = energy_of(device, links.tensor), energy_shares()
    assert shares.compute_share + shares.active_share >= 1.0
    for dtype in ("bf16", "fp8"):
        drawn = np.array([energy.flop_j(dtype) * device.peak_flops_per_s(dtype)])
        assert capped(drawn, np.ones(1), energy)[0] + device.accelerator.idle_w == device.accelerator.max_w


@pytest.mark.parametrize("name", ["a100-80g-sxm", "h100-sxm", "b200-sxm", "l40s", "rtx-4090", "l4"])
def test_streaming_weights_alone_stays_below_the_limit(name: str) -> None:
    step = price_step(deployment("llama-3.1-8b", name), decode_batch(1, 100))
    accelerator = deployment("llama-3.1-8b", name).accelerator
    assert accelerator.idle_w + 0.2 * (accelerator.max_w - accelerator.idle_w) < step.energy_j / step.total_s
    assert step.energy_j / step.total_s < accelerator.max_w


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


def test_grouped_products_pay_for_whole_tiles() -> None:
    found = deployment("qwen3-30b-a3b", "h100-sxm")
    device, links = pricing_of(found)
    energy = energy_of(device, links.tensor)
    rows = price_step(found, decode_batch(8, 100)).operators
    experts = next(row.operator for row in rows if isinstance(row.operator, Experts))
    joules = joules_of(experts, energy)
    assert joules > experts.flops * energy.flop_j("bf16") + experts.moved_bytes * energy.byte_j
    many = replace(experts, tokens=100_000.0, flops=experts.flops * 12_500)
    tiles = float(joules_of(many, energy)) - many.moved_bytes * energy.byte_j
    assert tiles == pytest.approx(many.flops * energy.flop_j("bf16"), rel=0.05)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 200), context=st.integers(16, 4000))
def test_more_work_in_a_step_takes_more_joules(batch: int, context: int) -> None:
    less = price_step(LLAMA, decode_batch(batch, context)).joules
    assert price_step(LLAMA, decode_batch(batch + 8, context)).joules > less
    assert price_step(LLAMA, decode_batch(batch, context + 500)).joules > less


def test_watts_rise_with_load_from_idle_towards_the_limit() -> None:
    """Requests at rising rates: the server draws more, always between idle and the limit, and joules add up."""
    surface, limits = step_surface(LLAMA), settings_of(LLAMA, memory_need(LLAMA, 400))
    drawn = []
    for gap_s in (10.0, 1.0, 0.2, 0.05):
        count = max(8, int(20.0 / gap_s))
        table = request_table(np.arange(count) * gap_s, np.full(count, 200), np.full(count, 100))
        done = run(table, surface, limits)
        span = max(done.makespan_s, count * gap_s)
        drawn.append(surface.static_w + float(done.dynamic_j.sum()) / span)
    accelerator = LLAMA.accelerator
    assert drawn == sorted(drawn)
    assert drawn[0] < 1.5 * accelerator.idle_w
    assert all(accelerator.idle_w < watts <= accelerator.max_w for watts in drawn)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 8), prompt=st.integers(16, 256))
def test_a_run_draws_what_its_steps_draw(batch: int, prompt: int) -> None:
    """Requests that arrive together: one prefill each, then decode steps in lockstep; no joule is lost or made."""
    output = 20
    table = request_table(np.zeros(batch), np.full(batch, prompt), np.full(batch, output))
    done = run(table, step_surface(LLAMA), settings_of(LLAMA, memory_need(LLAMA, 1000)))
    steps = [price_step(LLAMA, prefill_batch([(0, prompt)] * batch)).joules]
    steps += [price_step(LLAMA, decode_batch(batch, prompt + made)).joules for made in range(1, output)]
    assert float(done.dynamic_j.sum()) == pytest.approx(sum(steps), rel=0.03)
