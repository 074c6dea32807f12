"""What the servers behind InferenceX rows were started with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.evidence.inferencex import claims_of_row
from windtunnel.evidence.inferencex_servers import Server, gathered_steps, servers
from windtunnel.evidence.outcomes import predict
from windtunnel.evidence.scenario import Scenario
from windtunnel.evidence.table import Row

ROW = {
    "id": "X1",
    "backend": "trtllm",
    "backend_version": "1.2.0rc6.post2",
    "model_path": "deepseek-ai/DeepSeek-R1",
    "system": "b200_sxm",
    "precision": "fp8",
    "mode": "agg",
    "isl": "1024",
    "osl": "1024",
    "gemm_quant_mode": "fp8_block",
    "moe_quant_mode": "fp8_block",
    "tp_size": "8.0",
    "pp_size": "1.0",
    "attention_dp_size": "1.0",
    "moe_tp_size": "8.0",
    "moe_ep_size": "1.0",
    "silicon_ttft_ms": "200",
    "silicon_tpot_ms": "10",
    "concurrency": "16",
    "measured_on": "2026-02-05",
}


def scenario(**changed: str) -> Scenario:
    found = claims_of_row(Row(2, ROW | changed))[0].scenario
    assert found is not None
    return found


def test_the_container_tells_whether_several_tokens_are_predicted() -> None:
    assert scenario().drafts == 0
    with_drafts = scenario(backend_version="1.2.0rc6.post3")
    assert with_drafts.drafts == 3
    # The scripts leave a step room for one prompt beside the sequences and their drafts.
    assert with_drafts.max_num_batched_tokens == 1152
    assert scenario().max_num_batched_tokens == 8192


def test_scripts_of_2025_leave_a_step_room_for_one_prompt() -> None:
    assert scenario(backend_version="1.1.0rc2.post2", measured_on="2025-12-15").max_num_batched_tokens == 1152


def test_recipes_differ_by_precision_and_ranks() -> None:
    sglang = {"backend": "sglang", "backend_version": "0.5.9"}
    assert scenario(**sglang, precision="fp4").max_num_batched_tokens == 16384
    assert scenario(**sglang | {"system": "b300_sxm", "backend_version": "0.5.10"}).max_num_seqs == 128
    few = scenario(**sglang, isl="8192", tp_size="4.0", moe_tp_size="4.0")
    assert (few.max_num_batched_tokens, few.max_num_seqs) == (8192, 32)
    vllm = {"backend": "vllm", "backend_version": "0.18.0", "model_path": "openai/gpt-oss-120b", "system": "h200_sxm"}
    assert scenario(**vllm, precision="fp4").plan.kv_dtype == "bf16"
    assert scenario(**vllm, precision="fp4").max_num_seqs == 16


def test_other_lengths_are_of_a_benchmark_that_sends_them_exactly() -> None:
    found = scenario(isl="2000", osl="500", backend_version="1.0.0rc3")
    assert (found.input_tokens, found.output_tokens, found.length_ratio) == (2000, 500, 1.0)
    # Its servers' token budget is a prompt, a token a sequence and 1,500 more.
    assert (found.max_num_seqs, found.max_num_batched_tokens) == (16, 3516)
    assert scenario().length_ratio == 0.8


def test_caches_of_generated_servers_have_the_weights_format() -> None:
    other = {
        "isl": "2000",
        "osl": "500",
        "model_path": "meta-llama/Llama-3.1-8B",
        "gemm_quant_mode": "",
        "moe_quant_mode": "",
    }
    assert scenario(**other, precision="").plan.kv_dtype == "bf16"
    assert scenario(**other | {"gemm_quant_mode": "fp8"}).plan.kv_dtype == "fp8"


def test_a_set_up_that_its_columns_leave_open_is_not_guessed() -> None:
    sglang = {"backend": "sglang", "backend_version": "0.5.9"}
    both = claims_of_row(Row(2, ROW | sglang))[0]
    assert both.scenario is None
    assert "with and without multi-token prediction" in both.why
    # Beyond 64 clients, and for long prompts beyond four, only one of the two was run.
    many = scenario(**sglang, concurrency="256")
    assert (many.drafts, many.graph_tokens) == (2, 768)
    assert predict(many).values["tpot_mean_s"] > 0
    assert scenario(**sglang, isl="8192", concurrency="16").drafts == 2
    few = scenario(**sglang, isl="8192", tp_size="4.0", moe_tp_size="4.0")
    assert few.drafts == 0


def test_expert_parallelism_tells_one_recipe_from_the_other() -> None:
    qwen = {"backend": "sglang", "backend_version": "0.5.9", "model_path": "Qwen/Qwen3.5-397B-A17B", "tp_size": "4.0"}
    assert scenario(**qwen, moe_tp_size="4.0").drafts == 3
    assert scenario(**qwen, moe_tp_size="1.0", moe_ep_size="4.0").drafts == 0


def test_captured_graphs_reach_as_far_as_the_script_says() -> None:
    vllm = {
        "backend": "vllm",
        "backend_version": "0.19.0",
        "model_path": "MiniMaxAI/MiniMax-M2.5",
        "system": "b300_sxm",
    }
    found = scenario(**vllm, tp_size="4.0", moe_tp_size="4.0")
    assert (found.graph_tokens, found.max_num_batched_tokens) == (2048, 2048)


def test_drafts_shorten_the_time_per_token() -> None:
    plain = predict(scenario()).values["tpot_mean_s"]
    drafted = predict(scenario(backend_version="1.2.0rc6.post3")).values["tpot_mean_s"]
    assert 0.4 * plain < drafted < 0.9 * plain


def test_prompts_wait_where_the_engine_looks_rarely_or_gathers() -> None:
    polled = {"backend": "sglang", "backend_version": "0.5.8"}
    # Half of the steps between two looks.
    assert scenario(**polled).waited_steps == 15.0
    assert scenario(**polled, concurrency="8").waited_steps == 5.0
    assert scenario(**polled, system="h200_sxm").waited_steps == 0.0
    values = predict(scenario(**polled)).values
    free = predict(scenario(**polled, system="h200_sxm")).values
    assert values["ttft_mean_s"] > free["ttft_mean_s"]


@given(most=st.floats(1, 100), enough=st.integers(1, 16), arrivals=st.floats(1e-3, 10))
def test_gathering_waits_no_longer_than_its_limit(most: float, enough: int, arrivals: float) -> None:
    assert 0.0 <= gathered_steps(most, enough, arrivals) <= most + 1e-9


def test_gathering_is_the_mean_of_simulated_waits() -> None:
    rng = np.random.default_rng(1)
    most, arrivals, waits = 20.0, 0.2, []
    times = np.cumsum(rng.exponential(1.0 / arrivals, 200_000))
    at = 0
    while at < len(times) - 8:
        end = min(times[at] + most, times[at + 7])
        group = times[at : at + 8][times[at : at + 8] <= end]
        waits += list(end - group)
        at += len(group)
    assert gathered_steps(most, 8, arrivals) == pytest.approx(np.mean(waits), rel=0.1)


def test_ranks_of_a_whole_cluster_are_no_layout() -> None:
    row = Row(2, ROW | {"system": "gb200", "tp_size": "32.0", "moe_tp_size": "32.0"})
    assert "disaggregated" in claims_of_row(row)[0].why


def test_every_setting_says_where_it_is_from() -> None:
    assert all(isinstance(one, Server) and len(one.why) > 10 for one in servers().settings)
