"""LLMServingSim profiles: matched with a model's operators, checked, and priced beside prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.helpers import shared_file

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.measured.read import read_kernels
from windtunnel.cost.price import pricing_of, seconds_of
from windtunnel.cost.steps import price_step
from windtunnel.errors import TraceError
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.expand import decode_operators
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve

DEVICE = "rtx-pro-6000"


def small_profile(folder: Path, *, scale: float = 1.0, hardware: str = "RTXPRO6000") -> Path:
    """A made-up profile of Llama 3.1 8B at half the bandwidth of the device."""
    (folder / "tp1").mkdir(parents=True)
    (folder / "meta.yaml").write_text(
        f"hardware: {hardware}\nmodel: meta-llama/Llama-3.1-8B\nvariant: bf16\nvllm_version: 0.19.0\n"
    )
    layers = {"qkv_proj": 60.0, "o_proj": 40.0, "gate_up_proj": 290.0, "down_proj": 145.0, "layernorm": 3.0}
    rows = [f"{name},{n},{scale * (us + n / 4)}" for name, us in layers.items() for n in (1, 64, 2048)]
    (folder / "tp1" / "dense.csv").write_text("\n".join(["layer,tokens,time_us", *rows]))
    grid = []
    for chunk in (0, 16, 512, 2048):
        for requests in (0, 1, 64, 256):
            for context in (0,) if requests == 0 else (16, 1024, 8192):
                alone = 5 + requests * context * 4096 / 0.8e6
                beside = alone * (2.0 + chunk / 4096) if chunk else alone
                if chunk or requests:
                    grid.append(f"{chunk},0,{requests},{context},{scale * (beside + 5e-5 * chunk * chunk)}")
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    (folder / "tp1" / "attention.csv").write_text("\n".join([header, *grid]))
    return folder


def test_the_step_is_priced_from_the_profile(tmp_path: Path) -> None:
    case = deployment("meta-llama/Llama-3.1-8B", DEVICE)
    kernels = read_kernels(small_profile(tmp_path / "one"), case.accelerator)
    rows = {row.operator.name: row.cost for row in price_step(case, decode_batch(64, 1024), kernels).operators}
    assert rows["qkv"].source == "measured"
    assert rows["qkv"].seconds == pytest.approx((60 + 16) * 1e-6)
    assert rows["decode attention"].seconds == pytest.approx((5 + 64 * 1024 * 4096 / 0.8e6) * 1e-6)
    assert rows["kv write"].seconds == 0.0  # the attention layer writes the cache itself
    assert rows["lm head"].source == "calibrated"  # no per_sequence.csv


def test_decode_beside_a_prompt_costs_what_it_adds_to_the_launch(tmp_path: Path) -> None:
    case = deployment("meta-llama/Llama-3.1-8B", DEVICE)
    kernels = read_kernels(small_profile(tmp_path / "one"), case.accelerator)
    device, links = pricing_of(case, kernels)
    (decode,) = decode_operators(case.model, case.plan, 64.0, 64.0 * 1024)
    alone = float(seconds_of(decode, device, links))
    for beside in (16, 512, 2048):
        added = float(seconds_of(decode, device, links, beside))
        assert added == pytest.approx(alone * (2.0 + beside / 4096) - (beside / 4096 + 2.0) * 5e-6, rel=0.01)


def test_the_surface_agrees_with_the_operators(tmp_path: Path) -> None:
    case = deployment("meta-llama/Llama-3.1-8B", DEVICE, engine="vllm-0.19")
    kernels = read_kernels(small_profile(tmp_path / "one"), case.accelerator)
    surface = step_surface(case, kernels)
    batch = decode_batch(32, 1024) + prefill_batch([(0, 480)])
    step = price_step(case, batch, kernels)
    column = 1 + (10 - 4) * 8  # a context of 1,024
    call, token, pair, _, context = surface.prefill_s[:5]
    body = (
        surface.token_s[512]
        + surface.decode_mixed_s[32, column]
        + 480 * surface.decode_mixed_token_s[32, column]
        + call
        + 480 * token
        + 480 * 481 / 2 * pair
        + 480 * context
    )
    assert body + surface.sample_s[33] == pytest.approx(step.device_s, rel=1e-6)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_units(tmp_path: Path, scale: float) -> None:
    with pytest.raises(TraceError, match="is the unit right"):
        read_kernels(small_profile(tmp_path / "one", scale=scale), resolve("accelerators", DEVICE))


def test_another_device(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="measured on rtx-4090, not on rtx-pro-6000"):
        read_kernels(small_profile(tmp_path / "one", hardware="RTX4090"), resolve("accelerators", DEVICE))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("dense.csv", "layer,tokens,time_us\nqkv_proj,1,-3\n", "must not be negative"),
        ("dense.csv", "layer,tokens,time_us\nqkv_proj,1,fast\n", "not a number"),
        ("dense.csv", "layer,tokens,time_us\nmystery,1,3\n", "unknown layer"),
        ("dense.csv", "layer,tokens\nqkv_proj,1\n", "column is missing"),
        ("dense.csv", "layer,tokens,time_us,watts\nqkv_proj,1,3,4\n", "unknown column"),
        ("dense.csv", "layer,tokens,time_us\nqkv_proj,1,30\nqkv_proj,1,90\n", "contradicts an earlier row"),
        ("dense.csv", "layer,tokens,time_us\n", "no rows"),
        ("skew.csv", "regime,n\npure,2\n", "column is missing"),
    ],
)
def test_bad_tables(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = small_profile(tmp_path / "one")
    (folder / "tp1" / file).write_text(text)
    with pytest.raises(TraceError, match=message):
        read_kernels(folder, resolve("accelerators", DEVICE))


def test_profiles_below_a_folder_complement_each_other(tmp_path: Path) -> None:
    accelerator = resolve("accelerators", DEVICE)
    small_profile(tmp_path / "RTXPRO6000" / "one")
    small_profile(tmp_path / "RTX4090" / "one", scale=3.0, hardware="RTX4090")
    found = read_kernels(tmp_path, accelerator)
    assert found.device == DEVICE
    assert ("gemm", 6144, 4096, "bf16", "bf16") in found.tables
    with pytest.raises(TraceError, match="none of these kernels were measured on h100-sxm"):
        read_kernels(tmp_path, resolve("accelerators", "h100-sxm"))
    with pytest.raises(TraceError, match="of several devices"):
        read_kernels(tmp_path)


def test_real_profiles_of_three_models_and_two_devices() -> None:
    folder = shared_file("evidence", "runs", "vllm-0.19", "profiler", "perf")
    for path, model, device in (
        ("RTX4090/meta-llama/Llama-3.1-8B/bf16", "meta-llama/Llama-3.1-8B", "rtx-4090"),
        ("RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16", "Qwen/Qwen3-30B-A3B-Instruct-2507", DEVICE),
    ):
        case = deployment(model, device)
        kernels = read_kernels(folder / path, case.accelerator)
        step = price_step(case, decode_batch(32, 1024), kernels)
        share = sum(row.seconds for row in step.operators if row.cost.source == "measured") / step.device_s
        assert share > 0.9
        assert np.isfinite(step.device_s)
        assert step.limit_s < step.device_s < 4 * step.limit_s
