from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.report.launch_torchtitan import torchtitan_models
from windtunnel.report.train_launch import TrainingLaunch, launch_commands, launch_text
from windtunnel.specs.load import names
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import assembled_job, job_problems, training_job

FLAGS = """account-for-embedding-in-pipeline-split account-for-loss-in-pipeline-split accumulate-allreduce-grads-in-fp32
add-qkv-bias attention-backend attention-dropout bf16 ckpt-format context-parallel-size cp-comm-type
cpu-offloading-num-layers cross-entropy-loss-fusion cuda-graph-impl data-parallel-sharding-strategy
disable-bias-linear eval-iters exp-avg-dtype exp-avg-sq-dtype expert-model-parallel-size
expert-tensor-parallel-size ffn-hidden-size fp16 fp4-format fp4-param-gather fp4-recipe fp8-format
fp8-param-gather fp8-recipe global-batch-size grad-reduce-in-bf16 group-query-attention hidden-dropout hidden-size
kv-channels kv-lora-rank log-interval log-throughput lr make-vocab-size-divisible-by max-position-embeddings
micro-batch-size mock-data moe-enable-deepep moe-ffn-hidden-size moe-grouped-gemm moe-layer-freq
moe-permute-fusion moe-router-topk moe-shared-expert-intermediate-size moe-token-dispatcher-type mtp-num-layers
multi-latent-attention no-bias-dropout-fusion no-bias-gelu-fusion no-bias-swiglu-fusion no-masked-softmax-fusion
no-overlap-p2p-communication no-rope-fusion nnodes normalization nproc-per-node num-attention-heads
num-distributed-optimizer-instances num-experts num-layers num-layers-per-virtual-pipeline-stage num-query-groups
optimizer optimizer-cpu-offload optimizer-offload-fraction overlap-cpu-optimizer-d2h-h2d overlap-grad-reduce
overlap-moe-expert-parallel-comm overlap-param-gather pipeline-model-parallel-layout pipeline-model-parallel-size
position-embedding-type q-lora-rank qk-head-dim qk-layernorm qk-pos-emb-head-dim rdzv-backend rdzv-endpoint
recompute-granularity recompute-method recompute-modules recompute-num-layers seq-length sequence-parallel
sgd-momentum softmax-type standalone swiglu tensor-model-parallel-size tokenizer-type tp-comm-overlap train-iters
untie-embeddings-and-output-weights use-distributed-optimizer use-megatron-fsdp use-precision-aware-optimizer
v-head-dim vocab-size window-attn-skip-freq window-size"""
MEGATRON = frozenset(FLAGS.split())
"""Options of Megatron-LM's argument parser and of torchrun that a command may use."""

TITAN = {
    "model": {"name", "flavor", "hf_assets_path", "converters"},
    "training": {
        "local_batch_size", "global_batch_size", "seq_len", "steps", "dataset", "dtype", "mixed_precision_param",
        "enable_cpu_offload",
    },
    "parallelism": {
        "data_parallel_replicate_degree", "data_parallel_shard_degree", "tensor_parallel_degree",
        "context_parallel_degree", "pipeline_parallel_degree", "fsdp_reshard_after_forward",
        "enable_async_tensor_parallel", "context_parallel_rotate_method", "pipeline_parallel_schedule",
        "pipeline_parallel_microbatch_size", "pipeline_parallel_layers_per_stage",
        "pipeline_parallel_first_stage_less_layers", "pipeline_parallel_last_stage_less_layers",
        "module_fqns_per_model_part", "expert_parallel_degree", "expert_tensor_parallel_degree",
        "expert_parallel_comm_backend",
    },
    "activation_checkpoint": {"mode", "selective_ac_option"},
    "optimizer": {"name", "early_step_in_backward"},
    "compile": {"enable"},
    "metrics": {"log_freq"},
}  # fmt: skip
"""Fields of torchtitan's job configuration that a file may use."""


def job(
    model: str = "llama-3.1-70b",
    gpus: int = 64,
    batch: int = 128,
    seq: int = 8192,
    engine: Any = "megatron",
    **plan: Any,
) -> TrainingJob:
    return training_job(
        model,
        "h100-sxm",
        gpus=gpus,
        global_batch_sequences=batch,
        seq_len=seq,
        plan=TrainingPlan(**plan),
        engine=engine,
    )


def of(launches: tuple[TrainingLaunch, ...], engine: str) -> TrainingLaunch:
    return next(one for one in launches if one.engine.startswith(engine))


def options(launch: TrainingLaunch) -> dict[str, str]:
    """Flags with their first value."""
    words = launch.arguments
    return {
        word[2:]: words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else ""
        for i, word in enumerate(words)
        if word.startswith("--")
    }


def table(launch: TrainingLaunch) -> dict[str, Any]:
    return tomllib.loads(dict(launch.files)["windtunnel.toml"])


def test_llama_405b_on_megatron_is_dealt_as_its_report_says() -> None:
    launch = of(launch_commands(job(
        "llama-3.1-405b", 1024, 512, tensor_parallel=8, pipeline_parallel=16, virtual_stages=8, sequence_parallel=True,
        zero_stage=1,
    )), "Megatron")  # fmt: skip
    found = options(launch)
    assert launch.arguments[0] == "CUDA_DEVICE_MAX_CONNECTIONS=1"
    # 126 layers, the embedding and the head make 128 places for 16 x 8 stages.
    assert {"account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split"} <= set(found)
    assert found["num-layers-per-virtual-pipeline-stage"] == "1"
    assert (found["nnodes"], found["nproc-per-node"]) == ("128", "8")
    assert (found["global-batch-size"], found["micro-batch-size"], found["seq-length"]) == ("512", "1", "8192")
    # The null tokenizer adds a token: the model keeps its vocabulary, and padding to TP x 32 adds none.
    assert int(found["vocab-size"]) + 1 == 128256
    assert 128256 % (8 * int(found["make-vocab-size-divisible-by"])) == 0
    assert {"overlap-grad-reduce", "overlap-param-gather", "use-distributed-optimizer", "sequence-parallel"} <= set(
        found
    )


def test_uneven_stages_are_written_out() -> None:
    launch = of(launch_commands(job(
        "deepseek-v3", 2048, 8192, 4096, pipeline_parallel=16, expert_parallel=64, zero_stage=1, mtp_layers=1
    )), "Megatron")  # fmt: skip
    stages = options(launch)["pipeline-model-parallel-layout"].split("|")
    assert len(stages) == 16
    assert "".join(stages).count("t") == 61
    assert stages[0].startswith("E")
    assert stages[-1].endswith("mL")
    assert options(launch)["moe-layer-freq"] == "([0]*3+[1]*58)"
    assert "'([0]*3+[1]*58)'" in launch.text()


def test_torchtitan_file_of_a_sharded_8_bit_job() -> None:
    launch = of(launch_commands(job(
        tensor_parallel=8, sequence_parallel=True, zero_stage=3, zero_group=4, compute_dtype="fp8", recompute="full",
        micro_batch=2,
    )), "torchtitan")  # fmt: skip
    found = table(launch)
    degrees = found["parallelism"]
    assert (degrees["data_parallel_replicate_degree"], degrees["data_parallel_shard_degree"]) == (2, 4)
    assert degrees["fsdp_reshard_after_forward"] == "always"
    assert found["training"]["local_batch_size"] == 2
    assert found["activation_checkpoint"]["mode"] == "full"
    assert found["model"]["converters"] == ["quantize.linear.float8"]
    assert found["quantize"]["linear"]["float8"]["enable_fsdp_float8_all_gather"] is True
    assert "windtunnel.toml" in launch.text()


@pytest.mark.parametrize(
    ("virtual", "key"), [(4, "pipeline_parallel_layers_per_stage"), (1, "module_fqns_per_model_part")]
)
def test_torchtitan_deals_layers_as_priced(virtual: int, key: str) -> None:
    # 126 layers in 8 x 4 stages are dealt by torchtitan's rule; an own split is written out.
    own = {"stage_layers": (18, 14, 16, 16, 16, 16, 16, 14)} if virtual == 1 else {}
    launch = of(launch_commands(job(
        "llama-3.1-405b", 512, 512, tensor_parallel=8, pipeline_parallel=8, virtual_stages=virtual, zero_stage=2,
        sequence_parallel=True, **own,
    )), "torchtitan")  # fmt: skip
    degrees = table(launch)["parallelism"]
    assert key in degrees
    if virtual == 1:
        parts = degrees[key]
        assert [sum(name.startswith("layers.") for name in part) for part in parts] == list(own["stage_layers"])
        assert parts[0][0] == "tok_embeddings"
        assert parts[-1][-2:] == ["norm", "output"]
    # All microbatches of a step make up the local batch of a pipeline.
    assert table(launch)["training"]["local_batch_size"] == 64


def test_deepspeed_offload_becomes_configuration() -> None:
    launch = of(launch_commands(job(
        "llama-2-7b", 8, 64, 4096, zero_stage=3, recompute="full", offload_optimizer="nvme", offload_weights="host",
        quantized_weights_comm=True, zero_secondary_group=8, grad_dtype="bf16", engine="deepspeed",
    )), "DeepSpeed")  # fmt: skip
    config = json.loads(dict(launch.files)["ds_config.json"])
    zero = config["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "nvme"
    assert zero["offload_param"]["device"] == "cpu"
    assert (zero["zero_hpz_partition_size"], zero["zero_quantized_weights"]) == (8, True)
    assert config["train_batch_size"] == 8 * config["gradient_accumulation_steps"]
    assert "--gradient_checkpointing" in launch.arguments


@pytest.mark.parametrize(
    ("engine", "plan", "reason"),
    [
        ("Megatron", {"pipeline_parallel": 4, "schedule": "zero-bubble"}, "not zero-bubble"),
        ("Megatron", {"zero_stage": 3, "pipeline_parallel": 4}, "only without pipeline stages"),
        ("Megatron", {"zero_stage": 3, "zero_secondary_group": 8}, "no second copy"),
        ("Megatron", {"lora_rank": 16}, "LoRA"),
        ("torchtitan", {"zero_stage": 1}, "shards weights and gradients"),
        ("torchtitan", {"zero_stage": 2, "context_parallel": 2, "context_method": "ulysses"}, "Ulysses"),
        ("torchtitan", {"zero_stage": 2, "optimizer": "muon"}, "not muon"),
        ("DeepSpeed", {"zero_stage": 2, "pipeline_parallel": 4}, "refuses ZeRO-2"),
        ("DeepSpeed", {"zero_stage": 1, "pipeline_parallel": 4, "virtual_stages": 2}, "not interleaved"),
        ("DeepSpeed", {"zero_stage": 3, "context_parallel": 2}, "not in a ring"),
    ],
)
def test_what_an_engine_cannot_run_is_said(engine: str, plan: dict[str, Any], reason: str) -> None:
    launch = of(launch_commands(job(**plan)), engine)
    assert any(reason in one for one in launch.refusals), launch.refusals
    assert launch.arguments == ()
    assert launch.files == ()
    assert launch.text() == ""
    assert "cannot run this layout" in launch_text(launch)


@pytest.mark.parametrize(
    ("engine", "first"), [("megatron", "Megatron"), ("torchtitan", "torchtitan"), ("deepspeed", "DeepS")]
)
def test_the_jobs_own_engine_comes_first(engine: str, first: str) -> None:
    launches = launch_commands(job(engine=engine, zero_stage=3))
    assert launches[0].engine.startswith(first)
    assert len(launches) == 3


def test_torchtitans_models_are_in_the_catalogue() -> None:
    assert set(torchtitan_models()) <= set(names("models"))


PLANS = st.fixed_dictionaries(
    {
        "tensor_parallel": st.sampled_from([1, 2, 8]),
        "sequence_parallel": st.booleans(),
        "pipeline_parallel": st.sampled_from([1, 2, 4]),
        "schedule": st.sampled_from(["gpipe", "1f1b", "zero-bubble", "dualpipe"]),
        "context_parallel": st.sampled_from([1, 2]),
        "context_method": st.sampled_from(["ring", "ulysses"]),
        "expert_parallel": st.sampled_from([1, 4]),
        "zero_stage": st.sampled_from([0, 1, 2, 3]),
        "zero_group": st.sampled_from([0, 4]),
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "recompute_modules": st.sampled_from([("core_attention",), ("norm", "moe"), ("activation",)]),
        "compute_dtype": st.sampled_from(["bf16", "fp16", "fp8"]),
        "weight_dtype": st.sampled_from(["bf16", "fp16"]),
        "grad_dtype": st.sampled_from(["fp32", "bf16"]),
        "optimizer": st.sampled_from(["adamw", "muon", "sgd", "adamw-8bit", "lion"]),
        "state_dtype": st.sampled_from(["fp32", "bf16"]),
        "offload_optimizer": st.sampled_from(["none", "host", "nvme"]),
        "offload_activations": st.sampled_from(["none", "host"]),
        "overlap_grad_reduce": st.booleans(),
        "tp_overlap": st.booleans(),
        "moe_overlap": st.booleans(),
        "cuda_graphs": st.booleans(),
        "fused_kernels": st.booleans(),
        "flash_attention": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(plan=PLANS, model=st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "gpt-3-175b"]))
def test_every_layout_is_expressed_or_refused(plan: dict[str, Any], model: str) -> None:
    found = assembled_job(
        model, "h100-sxm", gpus=64, global_batch_sequences=256, seq_len=4096, plan=TrainingPlan(**plan)
    )
    if job_problems(found):
        return
    launches = launch_commands(found)
    for launch in launches:
        assert bool(launch.arguments) != bool(launch.refusals)
        assert len(set(launch.refusals)) == len(launch.refusals)
        assert len(options(launch)) == sum(word.startswith("--") for word in launch.arguments), "a flag twice"
    assert set(options(of(launches, "Megatron"))) <= MEGATRON
    titan, deep = of(launches, "torchtitan"), of(launches, "DeepSpeed")
    if titan.arguments:
        tables = table(titan)
        tables.pop("quantize", None)
        for name, rows in tables.items():
            assert set(rows) <= TITAN[name]
        degrees = tables["parallelism"]
        ranks = [degrees[f"{axis}_degree"] for axis in (
            "data_parallel_replicate", "data_parallel_shard", "tensor_parallel", "context_parallel", "pipeline_parallel"
        )]  # fmt: skip
        product = 1
        for degree in ranks:
            product *= degree
        assert product == found.gpus
    if deep.arguments:
        config = json.loads(dict(deep.files)["ds_config.json"])
        steps = config["gradient_accumulation_steps"] * config["train_micro_batch_size_per_gpu"]
        assert config["train_batch_size"] == steps * found.data_parallel
