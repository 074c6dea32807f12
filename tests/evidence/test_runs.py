"""Folders of engine runs: read with care, replayed as they were, and within budget on real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import shared_file

from windtunnel.cost.build_surface import step_surface
from windtunnel.errors import SpecError, TraceError
from windtunnel.evidence.runs import context_spread, validate_run
from windtunnel.evidence.runs_deploy import deployment_of_run
from windtunnel.evidence.runs_groups import prompts_on_one_rank
from windtunnel.evidence.runs_read import read_run
from windtunnel.workload.table import request_table

META: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {
        "tensor_parallel_size": 1,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "dtype": "bfloat16",
    },
}
CLOCK = 1000.0
"""The engine's clock at the first arrival, which is not the wall's."""


def request(i: int, **changes: object) -> dict[str, Any]:
    at = 1.7e9 + 0.1 * i
    engine = CLOCK + 0.1 * i
    row = {"request_id": f"bench-{i}", "input_toks": 100 + i, "output_toks": 50, "arrival_time": at}
    times = {"queued_ts": engine + 0.002, "scheduled_ts": engine + 0.003, "first_token_ts": engine + 0.05}
    return {**row, **times, "last_token_ts": engine + 0.7, **changes}


def run_folder(folder: Path, rows: list[dict[str, Any]] | None = None, **meta: object) -> Path:
    inner = folder / "RTXPRO6000" / "one" / "vllm"
    inner.mkdir(parents=True)
    (inner / "meta.json").write_text(json.dumps({**META, **meta}))
    lines = [json.dumps(row) for row in rows or [request(i) for i in range(20)]]
    (inner / "requests.jsonl").write_text("\n".join(lines) + "\n")
    return inner.parent


def test_clocks_are_set_together_and_latencies_count_from_arrival(tmp_path: Path) -> None:
    rows = [request(i) for i in range(20)]
    rows[7]["queued_ts"] += 0.02  # waited for the engine's loop
    found = read_run(run_folder(tmp_path, rows))
    assert found.workload.arrival_s == pytest.approx(0.1 * np.arange(20), abs=1e-6)
    assert found.first_token_s - found.workload.arrival_s == pytest.approx(np.full(20, 0.048), abs=1e-6)
    assert found.workload.prompt_tokens.tolist() == list(range(100, 120))


def test_the_replay_gives_every_metric(tmp_path: Path) -> None:
    report = validate_run(run_folder(tmp_path, kv_cache={"num_gpu_blocks": 3000})).as_dict()
    assert report["requests"] == 20
    assert report["kv_blocks"]["measured"] == 3000
    assert set(report["metrics"]) == {
        f"{name}_{part}_s" for name in ("ttft", "tpot", "e2e") for part in ("mean", "p50", "p90", "p99")
    }
    for one in report["metrics"].values():
        assert one["error"] == pytest.approx(one["predicted"] / one["measured"] - 1)
        assert one["predicted"] > 0
    assert report["metrics"]["tpot_mean_s"]["measured"] == pytest.approx(0.65 / 49)


def test_what_ran_is_read_from_the_arguments(tmp_path: Path) -> None:
    kwargs = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8, "max_model_len": 4096, "enforce_eager": True}
    deployment, notes = deployment_of_run(read_run(run_folder(tmp_path, engine_kwargs=kwargs)))
    assert (deployment.plan.tensor_parallel, deployment.engine.memory_utilization) == (2, 0.8)
    assert (deployment.max_model_len, deployment.engine.graphs) == (4096, False)
    assert deployment.engine.name == "vllm-0.19"
    assert deployment.node.peer_access
    assert not notes


def test_a_stated_link_too_slow_for_peers_is_staged(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, engine_kwargs={"tensor_parallel_size": 2})
    (folder / "config.json").write_text(
        json.dumps({"link_bw": 16, "nodes": [{"instances": [{"hardware": "RTX4090"}]}]})
    )
    found = read_run(folder)
    assert found.machine.accelerator == "RTX4090"
    (folder / "config.json").write_text(json.dumps({"link_bw": 16}))
    deployment, notes = deployment_of_run(read_run(folder))
    assert not deployment.node.peer_access
    assert "16 GB/s" in notes[0]


def test_data_parallel_engines_with_experts_share_them(tmp_path: Path) -> None:
    kwargs = {"data_parallel_size": 2, "enable_expert_parallel": True, "max_num_seqs": 64}
    folder = run_folder(tmp_path, model="Qwen/Qwen3-30B-A3B-Instruct-2507", engine_kwargs=kwargs)
    deployment, _ = deployment_of_run(read_run(folder))
    assert (deployment.plan.attention_data_parallel, deployment.plan.expert_parallel) == (2, 2)
    assert deployment.engine.max_num_seqs == 128
    surface = step_surface(deployment)
    apart = prompts_on_one_rank(surface, deployment, None)
    assert apart.prefill_s[2] == pytest.approx(2 * surface.prefill_s[2])
    assert apart.prefill_s[1] > 2 * surface.prefill_s[1]
    report = validate_run(folder)
    assert report.kv_blocks > 10_000
    assert all(value > 0 for value in report.predicted.values())


def test_a_model_that_the_catalogue_lacks_may_lie_beside_the_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, model="acme/small")
    with pytest.raises(SpecError, match="unknown model"):
        deployment_of_run(read_run(folder))
    config = tmp_path / "configs" / "model" / "acme" / "small.json"
    config.parent.mkdir(parents=True)
    sizes = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4}
    more = {"intermediate_size": 4096, "vocab_size": 32000, "max_position_embeddings": 8192}
    config.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", **sizes, **more}))
    deployment, _ = deployment_of_run(read_run(folder))
    assert (deployment.model.layers, deployment.model.kv_heads) == (4, 4)


def test_data_parallel_engines_without_experts_are_replicas(tmp_path: Path) -> None:
    deployment, _ = deployment_of_run(read_run(run_folder(tmp_path, engine_kwargs={"data_parallel_size": 2})))
    assert (deployment.plan.replicas, deployment.plan.attention_data_parallel) == (2, 1)
    surface = step_surface(deployment)
    assert prompts_on_one_rank(surface, deployment, None) is surface


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_toks": 0}, "whole number of at least 1"),
        ({"output_toks": "many"}, "not a number"),
        ({"first_token_ts": CLOCK - 5.0}, "times are not in order"),
        ({"last_token_ts": float("inf")}, "not a number"),
    ],
)
def test_bad_requests(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_run(run_folder(tmp_path, [request(0), request(1, **change)]))


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot read the file"):
        read_run(tmp_path)
    folder = run_folder(tmp_path, model="")
    with pytest.raises(TraceError, match="is missing"):
        read_run(folder)
    (folder / "vllm" / "meta.json").write_text("{")
    with pytest.raises(TraceError, match="not JSON"):
        read_run(folder)
    other = tmp_path / "unknown" / "vllm"
    other.mkdir(parents=True)
    (other / "meta.json").write_text(json.dumps(META))
    (other / "requests.jsonl").write_text(json.dumps(request(0)))
    with pytest.raises(TraceError, match="which accelerator"):
        deployment_of_run(read_run(other.parent))


def test_kv_blocks_as_an_rtx_4090_reported(tmp_path: Path) -> None:
    """vLLM 0.19 with Llama 3.1 8B in bf16 at these settings reported 2,588 blocks of 16 tokens."""
    kwargs = {
        "gpu_memory_utilization": 0.9,
        "max_model_len": 32768,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
    }
    folder = run_folder(tmp_path, engine_kwargs=kwargs)
    (folder / "config.json").write_text(json.dumps({"nodes": [{"instances": [{"hardware": "RTX4090"}]}]}))
    assert validate_run(folder).kv_blocks == pytest.approx(2588, rel=0.03)


def test_contexts_are_weighted_by_how_long_they_last() -> None:
    workload = request_table([0.0, 0.0], [100, 100], [1, 900])
    spread = np.array(context_spread(workload))
    assert spread.mean() == pytest.approx(1.0)
    assert spread.max() / spread.min() == pytest.approx(1000 / 100, rel=0.5)
    assert np.median(spread) == pytest.approx(1.0, rel=0.05)


RUNS = {"Llama-3.1-8B": "meta-llama/Llama-3.1-8B", "Qwen3-32B": "Qwen/Qwen3-32B"}


@pytest.mark.parametrize("name", RUNS)
def test_real_runs_within_budget(name: str) -> None:
    """With the device's measured kernels: TPOT and end to end within 2 %, mean TTFT within 5 %."""
    folder = shared_file("evidence", "runs", "vllm-0.19")
    kernels = folder / "profiler" / "perf" / "RTXPRO6000" / RUNS[name] / "bf16"
    metrics = validate_run(folder / "runs" / "RTXPRO6000" / name, kernels).as_dict()["metrics"]
    assert abs(metrics["ttft_mean_s"]["error"]) <= 0.05
    for metric in ("tpot_mean_s", "tpot_p99_s", "e2e_mean_s", "e2e_p99_s"):
        assert abs(metrics[metric]["error"]) <= 0.02, metric


@pytest.mark.parametrize("name", RUNS)
def test_real_runs_without_kernels(name: str) -> None:
    """With the catalogue's constants alone: TPOT and end to end within 10 %, and mean TTFT within 10 %."""
    folder = shared_file("evidence", "runs", "vllm-0.19", "runs", "RTXPRO6000", name)
    metrics = validate_run(folder).as_dict()["metrics"]
    for metric in ("tpot_mean_s", "tpot_p99_s", "e2e_mean_s", "e2e_p99_s"):
        assert abs(metrics[metric]["error"]) <= 0.10, metric
    assert abs(metrics["ttft_mean_s"]["error"]) <= 0.10
