from __future__ import annotations

from typing import Any

from windtunnel.report.launch import launches, sglang, vllm
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec
from windtunnel.specs.model import MixtureOfExperts, ModelSpec
from windtunnel.specs.plan import PlanSpec


def deployment(engine: dict[str, Any] | None = None, moe: bool = False, **plan: Any) -> DeploymentSpec:
    model = ModelSpec(
        name="toy-70b", aliases=("toy", "maker/Toy-70B"), layers=80, hidden=8192, heads=64, kv_heads=8,
        head_dim=128, ffn=28672, vocab=128256, max_context_tokens=131072,
        moe=MixtureOfExperts(experts=8, experts_per_token=2, expert_ffn=1024) if moe else None,
    )  # fmt: skip
    accelerator = AcceleratorSpec(
        name="gpu", vendor="maker", architecture="hopper", memory_bytes=80e9, memory_bandwidth_bytes_per_s=3e12,
        peak_flops_per_s={"bf16": 1e15}, vector_flops_per_s=60e12, processors=132, clock_hz=1.8e9, l2_cache_bytes=50e6,
        host_link_bytes_per_s=64e9, idle_w=100, max_w=700,
    )  # fmt: skip
    fabric = FabricSpec(name="link", scope="scale-up", bytes_per_s=450e9, latency_s=1e-6, efficiency=0.9)
    return DeploymentSpec(
        model=model,
        accelerator=accelerator,
        node=NodeSpec(name="box", accelerator="gpu", accelerators=8, topology="switch"),
        scale_up=fabric,
        scale_out=fabric,
        plan=PlanSpec(**plan),
        engine=EngineSpec(name="vllm", **(engine or {})),
    )


def test_vllm_command_of_a_replicated_fp8_plan() -> None:
    launch = vllm(deployment(tensor_parallel=2, replicas=3, weight_dtype="fp8", kv_dtype="fp8"))
    assert launch.text() == (
        "vllm serve maker/Toy-70B --dtype bfloat16 --quantization fp8 \\\n"
        "  --kv-cache-dtype fp8 --tensor-parallel-size 2 --data-parallel-size 3 \\\n"
        "  --max-num-seqs 256 --max-num-batched-tokens 2048 \\\n"
        "  --gpu-memory-utilization 0.9"
    )
    assert launch.copies == 1


def test_sglang_command_of_the_same_plan() -> None:
    launch = sglang(deployment(tensor_parallel=2, replicas=3, weight_dtype="fp8", kv_dtype="fp8"))
    assert launch.text() == (
        "python -m sglang.launch_server --model-path maker/Toy-70B --dtype bfloat16 \\\n"
        "  --quantization fp8 --kv-cache-dtype fp8_e4m3 --tp-size 2 --dp-size 3 \\\n"
        "  --max-running-requests 256 --chunked-prefill-size 2048 \\\n"
        "  --mem-fraction-static 0.9"
    )


def test_settings_away_from_the_defaults_are_said() -> None:
    settings = {
        "enable_chunked_prefill": False, "enable_prefix_caching": False, "graphs": False, "policy": "priority",
        "max_model_len": 4096, "block_size": 32, "long_prefill_token_threshold": 512, "max_num_batched_tokens": 8192,
    }  # fmt: skip
    words = vllm(deployment(settings, pipeline_parallel=2)).arguments
    for flag in (
        "--no-enable-chunked-prefill", "--no-enable-prefix-caching", "--enforce-eager", "--pipeline-parallel-size",
        "--scheduling-policy", "--max-model-len", "--block-size", "--long-prefill-token-threshold",
    ):  # fmt: skip
        assert flag in words
    words = sglang(deployment(settings, pipeline_parallel=2)).arguments
    assert words[words.index("--chunked-prefill-size") + 1] == "-1"
    assert {"--disable-radix-cache", "--disable-cuda-graph", "--enable-priority-scheduling", "--pp-size"} < set(words)


def test_replicas_beyond_a_node_are_separate_servers() -> None:
    launch = vllm(deployment(tensor_parallel=4, replicas=4))
    assert launch.copies == 4
    assert "--data-parallel-size" not in launch.arguments
    assert any("start 4 of these, each on 4 accelerators" in note for note in launch.notes)


def test_experts_keep_replicas_apart() -> None:
    launch = vllm(deployment(moe=True, tensor_parallel=2, expert_parallel=2, replicas=2))
    assert "--enable-expert-parallel" in launch.arguments
    assert launch.copies == 2


def test_a_replica_over_two_nodes_says_so() -> None:
    launch = vllm(deployment(tensor_parallel=8, pipeline_parallel=2))
    assert any("spans 2 nodes" in note for note in launch.notes)


def test_weight_only_formats_name_the_checkpoint() -> None:
    for launch in launches(deployment(weight_dtype="int4")):
        assert "--quantization" not in launch.arguments
        assert any("AWQ or GPTQ" in note for note in launch.notes)
