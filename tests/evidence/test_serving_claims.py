"""Rows of tables as set-ups: names, layouts, metrics, and what is not expressed and why."""

from __future__ import annotations

import pytest

from windtunnel.evidence.inferencex import claims_of_row, layout_of
from windtunnel.evidence.naming import accelerator_named, dtype_named, engine_named, model_named
from windtunnel.evidence.serving import NotExpressedError, claim_of, metric_value
from windtunnel.evidence.table import Row
from windtunnel.specs.load import names

ROW = {
    "id": "S1", "source": "NVIDIA/TensorRT-LLM docs", "model": "Llama 2 70B", "dtype_weights": "fp8", "dtype_kv": "fp8",
    "gpu": "H100-SXM-80GB", "n_gpus": "4", "tp": "4", "pp": "1", "engine": "TensorRT-LLM", "engine_version": "0.12.0",
    "mode": "offline max throughput", "input_len": "128", "output_len": "128", "concurrency_or_batch": "300",
    "metric_name": "output_throughput", "metric_value": "3000", "unit": "tok/s", "tier": "A",
}  # fmt: skip
X = {
    "id": "X1", "backend": "trtllm", "backend_version": "1.2.0", "model_path": "deepseek-ai/DeepSeek-R1",
    "system": "b200_sxm", "precision": "fp4", "mode": "agg", "isl": "1024", "osl": "1024", "gemm_quant_mode": "nvfp4",
    "moe_quant_mode": "nvfp4", "tp_size": "8.0", "pp_size": "1.0", "attention_dp_size": "1.0", "moe_tp_size": "8.0",
    "moe_ep_size": "1.0", "silicon_ttft_ms": "200", "silicon_tpot_ms": "9", "concurrency": "16",
}  # fmt: skip


def row(cells: dict[str, str]) -> Row:
    return Row(2, cells)


def test_a_row_becomes_a_set_up() -> None:
    claim = claim_of(row(ROW))
    assert claim.scenario is not None
    assert (claim.scenario.model, claim.scenario.accelerator) == ("llama-2-70b", "h100-sxm")
    assert claim.scenario.engine == "tensorrt-llm-0.12"
    assert (claim.scenario.mode, claim.scenario.requests) == ("offline", 300)
    assert (claim.value, claim.factor, claim.measured) == ("output_tokens_per_s", 1.0, 3000.0)


def test_per_gpu_figures_are_divided() -> None:
    claim = claim_of(row(ROW | {"metric_name": "output_throughput_per_gpu", "unit": "tok/s/GPU"}))
    assert claim.factor == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"model": "GPT-9"}, "model 'GPT-9' is not in the catalogue"),
        ({"gpu": "Abacus"}, "accelerator 'Abacus' is not in the catalogue"),
        ({"engine": "Handmade"}, "no preset for engine 'Handmade'"),
        ({"dtype_weights": "ternary"}, "number format 'ternary' is not known"),
        ({"input_len": ""}, "input_len is not stated"),
        ({"input_len": "ShareGPT"}, "'ShareGPT' is not a number"),
        ({"metric_name": "happiness"}, "metric happiness is not predicted"),
        ({"unit": "furlongs"}, "unit 'furlongs'"),
        ({"mode": "online rate"}, "the arrivals are not in the row"),
        ({"concurrency_or_batch": "many"}, "number of requests is not stated"),
    ],
)
def test_what_is_not_expressed_says_why(changed: dict[str, str], why: str) -> None:
    claim = claim_of(row(ROW | changed))
    assert claim.scenario is None
    assert why in claim.why


def test_milliseconds_and_seconds() -> None:
    assert metric_value("e2e_latency", "ms") == ("e2e_s", 1e3)
    assert metric_value("ttft_p99", "s") == ("ttft_p99_s", 1.0)
    with pytest.raises(NotExpressedError):
        metric_value("ttft_p99", "tok/s")


def test_attention_data_parallel_with_shared_experts() -> None:
    moe = ROW | {"model": "DeepSeek-R1-0528", "gpu": "H200-SXM-141GB", "tp": "1", "ep": "8", "dp": "8", "n_gpus": "8"}
    scenario = claim_of(row(moe)).scenario
    assert scenario is not None
    assert (scenario.plan.attention_data_parallel, scenario.plan.expert_parallel, scenario.plan.replicas) == (8, 8, 1)


def test_an_inferencex_row_is_two_figures() -> None:
    ttft, tpot = claims_of_row(row(X))
    assert (ttft.id, tpot.id) == ("X1/ttft", "X1/tpot")
    assert (ttft.measured, tpot.measured) == (200.0, 9.0)
    assert ttft.scenario == tpot.scenario
    assert ttft.scenario is not None
    assert (ttft.scenario.mode, ttft.scenario.requests, ttft.scenario.batch) == ("closed", 160, 16)
    assert ttft.tags["tier"] == "A"


@pytest.mark.parametrize(
    ("sizes", "layout"),
    [
        (("8", "1", "8", "1"), (8, 1, 1)),
        (("64", "1", "8", "8"), (8, 1, 8)),
        (("1", "64", "8", "8"), (1, 8, 8)),
        (("1", "8", "1", "8"), (1, 8, 8)),
        (("4", "4", "1", "16"), (4, 1, 4)),
        (("2", "", "4", "1"), (2, 2, 1)),
        (("8", "", "2", "4"), (8, 1, 4)),
    ],
)
def test_layouts_that_dumps_state_twice_over(sizes: tuple[str, ...], layout: tuple[int, int, int]) -> None:
    keys = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    assert layout_of(row(X | dict(zip(keys, sizes, strict=True)))) == layout


def test_disaggregated_rows_wait() -> None:
    assert "separate workers" in claims_of_row(row(X | {"mode": "disagg"}))[0].why


def test_names_lead_to_the_catalogue() -> None:
    assert accelerator_named("H100-SXM-80GB (power-capped)") == ("h100-sxm", 350.0)
    assert model_named("nvidia/DeepSeek-R1-NVFP4") == "deepseek-r1"
    assert dtype_named("", "bf16") == "bf16"
    assert dtype_named("gguf Q4_K_M (4.85 bpw)") == "q4_k_m"
    assert engine_named("vLLM (Splitwise fork)", "~0.2 (2023)", "static batch", "a100-80g-sxm") == "vllm-0.2"
    assert engine_named("llama.cpp", "2024-05", "latency", "rtx-3090") == "llama.cpp"
    assert engine_named("llama.cpp", "2024-05", "latency", "m1-max-32core") == "llama.cpp-metal"


def test_every_preset_of_the_dictionary_exists() -> None:
    from windtunnel.evidence.naming import dictionary

    known = set(names("engines"))
    assert {entry.preset for entry in dictionary().engines} <= known
    assert {entry.node for entry in dictionary().nodes} <= set(names("nodes"))
    assert {entry.accelerator for entry in dictionary().accelerators.values()} <= set(names("accelerators"))
    assert set(dictionary().models.values()) <= set(names("models"))
