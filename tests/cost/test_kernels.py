"""Kernel costs: never faster than light, never helped by worse hardware, right at their limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost import attention, collective, gemm, moe
from windtunnel.cost.calibration import fit, run
from windtunnel.cost.calibration.tables import Table
from windtunnel.cost.device import Device, calibration, calibration_names, device_of
from windtunnel.cost.elementwise import elementwise_seconds
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import names, resolve
from windtunnel.specs.plan import PlanSpec

DEVICES = ["a100-80g-sxm", "h100-sxm", "b200-sxm", "l40s", "mi300x", "v100-32g-sxm"]
A100 = device_of(resolve("accelerators", "a100-80g-sxm"))
H100 = device_of(resolve("accelerators", "h100-sxm"))

devices = st.sampled_from(DEVICES).map(lambda name: device_of(resolve("accelerators", name)))
widths = st.sampled_from([256, 1024, 1536, 4096, 5120, 8192, 28672])
rows = st.integers(1, 16384)


def faster(device: Device, **factor: float) -> Device:
    """The device with some datasheet values multiplied."""
    old = device.accelerator
    update = {name: getattr(old, name) * f for name, f in factor.items() if name != "peak"}
    if "peak" in factor:
        update["peak_flops_per_s"] = {k: v * factor["peak"] for k, v in old.peak_flops_per_s.items()}
    return dataclasses.replace(device, accelerator=old.model_copy(update=update))


@given(devices, rows, widths, widths, st.sampled_from(["bf16", "fp8", "int4"]))
def test_a_product_is_never_faster_than_light(device: Device, m: int, n: int, k: int, weights: str) -> None:
    computed = weights if weights in device.accelerator.peak_flops_per_s and weights != "int4" else "bf16"
    predicted = gemm.gemm_seconds(m, n, k, device, weights, computed)
    assert predicted >= gemm.gemm_limit_seconds(m, n, k, device, weights, computed)


@given(devices, rows, widths, widths)
def test_more_bandwidth_or_a_higher_peak_never_slow_a_product(device: Device, m: int, n: int, k: int) -> None:
    before = gemm.gemm_seconds(m, n, k, device)
    assert gemm.gemm_seconds(m, n, k, faster(device, memory_bandwidth_bytes_per_s=1.5)) <= before
    assert gemm.gemm_seconds(m, n, k, faster(device, peak=1.5)) <= before


@given(devices, widths, widths)
def test_a_product_grows_with_its_rows_up_to_the_tile(device: Device, n: int, k: int) -> None:
    # The library picks the best of several tiles, so time never falls when every tile count grows.
    table = gemm.gemm_seconds(np.arange(0, 4097, 256), n, k, device)
    assert (np.diff(table) >= -1e-12).all()


@given(rows, widths, widths)
def test_more_depth_or_width_never_saves_time(m: int, n: int, k: int) -> None:
    once = gemm.gemm_seconds(m, n, k, H100)
    assert gemm.gemm_seconds(m, n, 2 * k, H100) >= once
    assert gemm.gemm_seconds(m, 2 * n, k, H100) >= once


@given(st.sampled_from(["h100-sxm", "b200-sxm", "l40s"]), widths, widths, rows)
def test_narrow_products_grow_with_their_rows_and_pay_for_quantising(name: str, n: int, k: int, m: int) -> None:
    device = device_of(resolve("accelerators", name))
    cluster = 256  # rows of the largest tile that two processors share
    table = gemm.gemm_seconds(np.arange(0, 4097, cluster), n, k, device, "fp8", "fp8")
    assert (np.diff(table) >= -1e-12).all()
    whole = gemm.gemm_seconds(m, n, k, device, "fp8", "fp8")
    assert whole > gemm.quantise_seconds(np.asarray(float(m)), k, device, "fp8") > 0
    assert gemm.quantise_seconds(np.asarray(float(m)), k, device, "bf16") == 0


def test_tiles_by_rows_step_where_the_kernels_change() -> None:
    # Up to 128 rows narrow tiles, then 128 x 128, of which two processors share a column: 257 rows cost as 512.
    times = [float(gemm.gemm_seconds(m, 8192, 4096, H100, "fp8", "fp8")) for m in (64, 129, 256, 257, 512)]
    assert times[1] > 1.2 * times[0]
    assert times[3] > 1.4 * times[2]
    assert times[4] < 1.1 * times[3]


def test_nothing_to_do_takes_no_time() -> None:
    assert gemm.gemm_seconds(0, 4096, 4096, H100) == 0
    assert elementwise_seconds(0.0, H100) == 0
    assert attention.decode_attention_seconds(0, 0, q_heads=8, kv_heads=1, head_dim=128, kv_bytes=2, device=H100) == 0
    sizes = {"experts": 8, "local_experts": 8, "experts_per_token": 2, "hidden": 4096, "local_ffn": 14336}
    assert moe.moe_seconds(0, matrices=3, device=H100, **sizes) == 0


def test_the_kept_table_is_the_function() -> None:
    table = gemm.gemm_table(512, 4096, 4096, H100, "bf16", "bf16")
    assert np.array_equal(table, gemm.gemm_seconds(np.arange(513), 4096, 4096, H100))
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1.0


def test_small_batches_are_bound_by_weights_and_large_ones_by_arithmetic() -> None:
    weights_s = 8192 * 8192 * 2 / H100.bandwidth_bytes_per_s
    assert weights_s < gemm.gemm_seconds(1, 8192, 8192, H100) < 1.5 * weights_s
    flops_s = 2 * 16384 * 8192 * 8192 / H100.peak_flops_per_s("bf16")
    assert flops_s < gemm.gemm_seconds(16384, 8192, 8192, H100) < 1.6 * flops_s


@given(devices, st.integers(1, 256), st.integers(1, 32768), st.sampled_from([(32, 8), (8, 1), (32, 32)]))
def test_decode_reads_the_cache_at_best_at_full_bandwidth(
    device: Device, requests: int, context: int, heads: tuple[int, int]
) -> None:
    q, kv = heads
    shape = {"q_heads": q, "kv_heads": kv, "head_dim": 128, "kv_bytes": 2.0}
    total = requests * context
    predicted = attention.decode_attention_seconds(requests, total, device=device, **shape)
    assert predicted >= total * 2 * kv * 128 * 2 / device.bandwidth_bytes_per_s
    assert attention.decode_attention_seconds(requests, total + requests, device=device, **shape) >= predicted


def test_latent_decode_costs_less_than_keys_and_values_of_all_heads() -> None:
    latent = attention.decode_mla_seconds(
        64, 64 * 4096, heads=128, latent_dim=512, rope_dim=64, kv_bytes=2, device=H100
    )
    full = attention.decode_attention_seconds(
        64, 64 * 4096, q_heads=128, kv_heads=128, head_dim=128, kv_bytes=2, device=H100
    )
    assert latent < full / 4


@given(devices)
def test_prefill_pairs_take_at_least_their_arithmetic(device: Device) -> None:
    line = attention.prefill_attention_line(
        q_heads=32, kv_heads=8, head_dim=128, v_head_dim=128, kv_bytes=2, device=device
    )
    assert line.pair >= 4 * 32 * 128 / device.peak_flops_per_s("bf16")


@given(devices, st.sampled_from([(32, 8), (8, 1), (8, 8)]))
def test_narrow_heads_take_more_than_their_share_of_prefill(device: Device, heads: tuple[int, int]) -> None:
    shape = {"q_heads": heads[0], "kv_heads": heads[1], "kv_bytes": 2.0, "device": device}
    narrow = attention.prefill_attention_line(head_dim=64, v_head_dim=64, **shape)
    wide = attention.prefill_attention_line(head_dim=128, v_head_dim=128, **shape)
    assert wide.pair / 2 <= narrow.pair * (1 + 1e-9)
    assert narrow.pair < wide.pair


@pytest.mark.parametrize("device", [A100, H100], ids=["a100", "h100"])
def test_one_prompt_leaves_processors_idle_that_many_fill(device: Device) -> None:
    line = attention.prefill_attention_line(
        q_heads=4, kv_heads=1, head_dim=128, v_head_dim=128, kv_bytes=2.0, device=device
    )

    def each(prompts: int) -> float:
        n = 1024.0
        return float(line.seconds(prompts, prompts * n, prompts * n * (n + 1) / 2, prompts * n, n)) / prompts

    assert each(64) < 0.5 * each(1)


def test_training_writes_no_cache() -> None:
    shape = {"q_heads": 32, "kv_heads": 32, "head_dim": 128, "v_head_dim": 128, "kv_bytes": 2.0, "device": H100}
    with_cache = attention.prefill_attention_line(**shape)
    without = attention.prefill_attention_line(**shape, caches=False)
    assert without.token < with_cache.token
    assert without.pair == with_cache.pair


def test_heads_without_a_group_are_not_split() -> None:
    shape = {"kv_heads": 4, "head_dim": 128, "kv_bytes": 2.0, "device": A100}
    one, many = (float(attention.decode_attention_seconds(1, 32768, q_heads=n, **shape)) for n in (4, 16))
    assert one > 2 * many  # four streams on 108 processors against parts for all of them
    crowd, grouped = (float(attention.decode_attention_seconds(256, 256 * 1024, q_heads=n, **shape)) for n in (4, 16))
    assert crowd < 1.1 * grouped


@given(st.integers(1, 8192), st.sampled_from([(8, 2), (64, 6), (256, 8)]))
def test_experts_take_at_least_their_weights_and_arithmetic(tokens: int, shape: tuple[int, int]) -> None:
    experts, k = shape
    sizes = {"experts": experts, "local_experts": experts, "experts_per_token": k, "hidden": 4096, "local_ffn": 1536}
    assert moe.moe_seconds(tokens, matrices=3, device=H100, **sizes) >= moe.moe_limit_seconds(
        tokens, matrices=3, device=H100, **sizes
    )


@pytest.mark.parametrize(("skew", "rows"), [(0.0, 64.0), (0.0, 4096.0), (1.0, 4096.0)])
def test_the_busiest_rank_is_the_largest_of_random_draws(skew: float, rows: float) -> None:
    rng = np.random.default_rng(0)
    ranks, local = 8, 32
    popularity = rng.gamma(1.0 / skew**2, skew**2, (4000, ranks, local)) if skew else np.ones((4000, ranks, local))
    share = popularity.sum(axis=2) / popularity.sum(axis=(1, 2))[:, None]
    drawn = rng.poisson(share * rows * ranks).max(axis=1).mean() / rows
    found = float(moe.busiest_load(np.asarray(rows), ranks * local, local, skew))
    assert found - 1.0 == pytest.approx(drawn - 1.0, rel=0.5)
    assert float(moe.busiest_load(np.asarray(rows), local, local, skew)) == 1.0


def test_active_experts_follow_the_coupon_collector() -> None:
    # 128 experts, 8 per token: one token touches 8, a large batch all.
    assert moe.active_experts(1, 128, 8) == pytest.approx(8)
    assert moe.active_experts(10_000, 128, 8) == pytest.approx(128)
    rng = np.random.default_rng(0)
    drawn = [len({int(e) for _ in range(20) for e in rng.choice(64, 6, replace=False)}) for _ in range(300)]
    assert moe.active_experts(20, 64, 6) == pytest.approx(np.mean(drawn), rel=0.01)


def link(ranks: int, accelerator: str = "h100-sxm") -> collective.Link:
    plan = PlanSpec(tensor_parallel=min(ranks, 8), pipeline_parallel=max(1, ranks // 8))
    return collective.link_of(deployment("llama-3.1-405b", accelerator, plan=plan), ranks)


@given(st.integers(1, 2**30), st.sampled_from([2, 4, 8, 16, 32]))
def test_an_all_reduce_moves_its_volume(size: int, ranks: int) -> None:
    joined = link(ranks)
    seconds = collective.all_reduce_seconds(size, ranks, joined)
    inside = min(ranks, 8)
    assert seconds >= 2 * (inside - 1) / inside * size / joined.bytes_per_s * 0.999 - 1e-12
    assert collective.all_reduce_seconds(size + 1024, ranks, joined) >= seconds
    assert collective.reduce_scatter_seconds(size, ranks, joined) <= seconds + 20e-6


def test_one_rank_has_nothing_to_exchange() -> None:
    for exchange in (collective.all_reduce_seconds, collective.all_gather_seconds, collective.all_to_all_seconds):
        assert exchange(1e6, 1, link(1)) == 0


def test_crossing_nodes_and_the_host_bus_cost_more() -> None:
    assert collective.all_reduce_seconds(2**24, 16, link(16)) > 1.3 * collective.all_reduce_seconds(2**24, 8, link(8))
    over_bus = collective.all_reduce_seconds(2**24, 2, link(2, "l40s"))
    assert over_bus > 5 * collective.all_reduce_seconds(2**24, 2, link(2))


def test_provenance_says_whether_the_device_itself_was_measured() -> None:
    assert H100.provenance == "calibrated"
    inherited = device_of(resolve("accelerators", "h100-pcie"))
    assert (inherited.provenance, inherited.inherited_from) == ("datasheet", "hopper")
    assert device_of(resolve("accelerators", "gaudi-3")).inherited_from == "generic"


def test_every_calibration_entry_loads_and_every_accelerator_has_constants() -> None:
    for name in calibration_names():
        assert calibration(name).gemm
        assert calibration(name).sources
    for name in names("accelerators"):
        assert device_of(resolve("accelerators", name)).constants.gemm


def test_experts_of_narrow_formats_are_padded_to_a_line() -> None:
    b200 = device_of(resolve("accelerators", "b200-sxm"))
    sizes = {"experts": 256, "local_experts": 256, "experts_per_token": 8, "hidden": 7168, "matrices": 3}
    formats = {"device": b200, "weight_dtype": "nvfp4", "compute_dtype": "nvfp4"}
    seconds = {width: float(moe.moe_seconds(512, local_ffn=width, **sizes, **formats)) for width in (64, 256, 257)}
    assert seconds[64] == seconds[256] < seconds[257]


def test_uneven_routing_touches_fewer_experts_in_the_tables() -> None:
    tokens, experts, topk = (np.array(value, dtype=float) for value in ([1, 64, 16384], [256] * 3, [8] * 3))
    touched = fit.touched_experts(tokens, experts, topk)
    even = moe.active_experts(tokens, experts, topk)
    assert touched[0] == 8
    assert 0.6 * even[1] < touched[1] < even[1]
    assert touched[2] > 0.9 * even[2]


def test_a_rack_leaves_an_engines_own_kernels_at_the_tray() -> None:
    # Four GPUs of a tray share an operating system; eight reduce in the switch, sixteen in the library's ring.
    near, switch, ring = (float(collective.all_reduce_seconds(16384, n, link(n, "gb300"))) for n in (4, 8, 16))
    assert near < 0.75 * switch
    assert switch < 0.5 * ring
    large = [float(collective.all_reduce_seconds(2**30, n, link(n, "gb300"))) for n in (4, 8, 16)]
    assert large[0] < large[1] < large[2] < 1.4 * large[0]


def test_a_pair_that_is_slower_than_four_is_left_out_of_the_fit() -> None:
    columns = {
        "num_gpus": np.array([2, 4, 2, 4]),
        "message_size": np.array([1024, 1024, 2**28, 2**28]),
        "latency": np.array([0.005, 0.0052, 2.7, 1.46]),
    }
    kept = run._all_reduces(lambda *_: Table(columns, "vllm 0.19.0"))
    assert kept is not None
    assert kept.columns["latency"].tolist() == [0.005, 0.0052, 1.46]
