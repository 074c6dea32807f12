"""An engine's own kernels: what its habits cost, and that they follow from the hardware as they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import attention, gemm
from windtunnel.cost.collective import link_of
from windtunnel.cost.device import Device, device_of
from windtunnel.cost.elementwise import elementwise_seconds
from windtunnel.cost.engine_kernels import device_under
from windtunnel.cost.memory import memory_need
from windtunnel.cost.price import Links, modelled_seconds
from windtunnel.cost.steps import launches_of
from windtunnel.operators.expand import token_operators
from windtunnel.operators.matmul import Matmul
from windtunnel.specs.assemble import deployment
from windtunnel.specs.engine import EngineSpec, KernelFactors
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

LLAMA_CPP: EngineSpec = resolve("engines", "llama.cpp")
CARDS = st.sampled_from(["a100-80g-pcie", "h100-pcie", "rtx-3090", "rtx-4090", "l40s"])


def on(card: str, **factors: object) -> Device:
    """A card under an engine of nothing but such kernels."""
    engine = LLAMA_CPP.model_copy(update={"kernels": LLAMA_CPP.kernels.model_copy(update=factors)})
    return device_under(device_of(resolve("accelerators", card)), engine)


@given(CARDS, st.integers(1, 8), st.sampled_from([1024, 4096, 14336]))
def test_loads_in_flight_bound_a_stream_however_wide_the_memory(card: str, rows: int, n: int) -> None:
    bound, free = on(card), on(card, load_bytes_per_s=0.0)
    least = n * 4096 * 2.0 / (bound.constants.habits.load_bytes_per_s * bound.processors)
    seconds = gemm.gemm_seconds(rows, n, 4096, bound, "fp16", "fp16")
    assert seconds >= max(least, gemm.gemm_seconds(rows, n, 4096, free, "fp16", "fp16"))
    wide = bound.accelerator.model_copy(update={"memory_bandwidth_bytes_per_s": 1e15})
    assert gemm.gemm_seconds(rows, n, 4096, dataclasses.replace(bound, accelerator=wide), "fp16", "fp16") >= least


def test_keys_and_values_are_read_once_per_query_head() -> None:
    device = on("rtx-3090")
    rate = device.constants.habits.unpacked_bytes_per_s * device.processors
    shape = {"q_heads": 32, "kv_heads": 8, "head_dim": 128, "kv_bytes": 2.0, "device": device}
    long, longer = attention.decode_attention_seconds(1, np.array([50_000, 60_000]), **shape)
    assert longer - long == pytest.approx(10_000 * 2 * 32 * 128 * 2 / rate)


def test_products_apart_cost_their_sum() -> None:
    model, plan = resolve("models", "llama-3-8b"), PlanSpec(weight_dtype="fp16")
    qkv = next(one for one in token_operators(model, plan, 512.0) if one.name == "qkv")
    assert isinstance(qkv, Matmul)
    assert qkv.apart == (4096, 1024, 1024)
    device = on("a100-80g-pcie")
    links = Links(*2 * (link_of(deployment(model, "a100-80g-pcie"), 1),))
    expected = sum(gemm.gemm_seconds(512.0, n, 4096, device, "fp16", "fp16") for n in qkv.apart)
    assert modelled_seconds(qkv, device, links) == pytest.approx(float(expected))
    fused = modelled_seconds(qkv, on("a100-80g-pcie", apart=False), links)
    assert fused < modelled_seconds(qkv, device, links)


def test_fused_kernels_save_their_fixed_times_and_move_what_they_moved() -> None:
    model, plan = resolve("models", "llama-3.1-70b"), PlanSpec(weight_dtype="fp8")
    links = Links(*2 * (link_of(deployment(model, "h100-sxm"), 1),))
    plain = device_of(resolve("accelerators", "h100-sxm"))
    engine = EngineSpec(name="fused", kernels=KernelFactors(fused=("attention",)))
    fused = device_under(plain, engine)
    operators = token_operators(model, plan, 512.0)
    saved = [
        one.count * (modelled_seconds(one, plain, links) - modelled_seconds(one, fused, links)) for one in operators
    ]
    assert sum(saved) == pytest.approx(3 * 80 * plain.constants.elementwise_launch_s)
    assert launches_of(operators, ()) - launches_of(operators, ("attention",)) == 3 * 80


@given(CARDS, st.floats(100.0, 20_000.0))
def test_fixed_times_in_clocks_follow_the_clock(card: str, clocks: float) -> None:
    device = on(card, kernel_clocks=clocks, elementwise_kernels=1.0)
    assert elementwise_seconds(1e-9, device) == pytest.approx(clocks / device.accelerator.clock_hz)
    assert device.constants.decode.launch_s == pytest.approx(4 * clocks / device.accelerator.clock_hz)


def test_conversions_are_traffic_of_batches_alone() -> None:
    plain = on("rtx-3090", converts=False)
    with_conversions = on("rtx-3090")
    one, many = 1, 512
    launch = plain.constants.gemm_of("fp16").launch_s
    extra = [
        float(gemm.gemm_seconds(m, 4096, 4096, with_conversions, "fp16", "fp16"))
        - float(gemm.gemm_seconds(m, 4096, 4096, plain, "fp16", "fp16"))
        for m in (one, many)
    ]
    assert extra[0] == pytest.approx(launch)
    assert extra[1] > 2 * launch + many * 8192 * 6.0 / plain.bandwidth_bytes_per_s


def test_a_gguf_file_holds_embedding_and_head_in_few_bits_too() -> None:
    job = deployment("llama-3-8b", "rtx-3090", engine="llama.cpp", plan=PlanSpec(weight_dtype="q4_k_m"))
    weights = sum(row.bytes for row in memory_need(job).rows if row.name.startswith("weights"))
    # 4.92 GB, the size of the published Meta-Llama-3-8B Q4_K_M files.
    assert weights == pytest.approx(4.92e9, rel=0.015)


def test_an_engines_kernels_do_not_speed_up_a_bus() -> None:
    engine = EngineSpec.model_validate({"name": "quick", "kernels": {"collective": 2.0}})
    for accelerator, factor in (("l40s", 1.0), ("a100-80g-sxm", 2.0)):
        job = deployment("llama-3-8b", accelerator, plan=PlanSpec(tensor_parallel=2))
        usual = link_of(job, 2).constants.efficiency
        found = link_of(job.model_copy(update={"engine": engine}), 2).constants.efficiency
        assert found == pytest.approx(min(1.0, usual * factor))
