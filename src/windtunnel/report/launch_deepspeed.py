"""DeepSpeed's configuration (JSON) for a training job, and the script that reads it.

Layouts of data parallelism alone run with transformers' `run_clm.py`; tensor, pipeline, sequence (Ulysses) and expert
parallelism run with Megatron-DeepSpeed's `pretrain_gpt.py`. Names and rules as in DeepSpeed 0.16
(`deepspeed/runtime/zero/config.py`, `runtime/engine.py`, `runtime/pipe/engine.py`), Megatron-DeepSpeed's
`megatron/arguments.py`, and transformers' `TrainingArguments`.
"""

from __future__ import annotations

import json
from typing import Any

from windtunnel.report.launch import checkpoint_name
from windtunnel.report.launch_training import Draft, TrainingLaunch, common_refusals, place_notes, torchrun
from windtunnel.specs.training import TrainingJob, chunk_layers

ENGINE = "DeepSpeed 0.16"
FILE = "ds_config.json"
_DEVICES = {"host": "cpu", "nvme": "nvme"}
_OPTIMIZERS = {"adamw": "AdamW", "lion": "Lion"}
# Optimisers that transformers brings; DeepSpeed shards them without having tested them.
_TRANSFORMERS = {"adamw-8bit": "adamw_bnb_8bit", "adafactor": "adafactor", "sgd": "sgd"}


def deepspeed(job: TrainingJob) -> TrainingLaunch:
    """A JSON file and the command that reads it, or why not."""
    draft = Draft()
    alone = _data_parallel_alone(job)
    _refusals(job, draft)
    config = _config(job, draft, alone)
    draft.words += torchrun(job)
    place_notes(job, draft)
    if alone:
        _transformers(job, draft)
    else:
        _megatron_deepspeed(job, draft)
    script = "transformers' run_clm.py" if alone else "Megatron-DeepSpeed"
    return draft.launch(f"{ENGINE} with {script}", ((FILE, json.dumps(config, indent=2) + "\n"),))


def _data_parallel_alone(job: TrainingJob) -> bool:
    """Whether transformers can run it: data parallelism and ZeRO, for a model that can be downloaded."""
    plan = job.plan
    others = plan.tensor_parallel * plan.pipeline_parallel * plan.context_parallel * plan.expert_parallel
    return others == 1 and "/" in checkpoint_name(job.model)


def _refusals(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    common_refusals(job, draft, "DeepSpeed")
    schedule = plan.pipeline_schedule
    draft.refuse(f"DeepSpeed's pipeline engine runs 1F1B, not {schedule}", when=schedule != "1f1b")
    staged = plan.pipeline_parallel > 1
    draft.refuse(
        f"DeepSpeed's pipeline engine refuses ZeRO-{plan.zero_stage}: it shards optimiser states at most",
        when=staged and plan.zero_stage > 1,
    )
    ring = plan.context_parallel > 1 and plan.context_method == "ring"
    draft.refuse("DeepSpeed shards sequences by heads (Ulysses), not in a ring", when=ring)
    ulysses = plan.context_parallel > 1 and not ring
    both = ulysses and plan.sequence_parallel and plan.tensor_parallel > 1
    draft.refuse("Megatron-DeepSpeed combines Ulysses with no other sequence parallelism", when=both)
    draft.refuse("Megatron-DeepSpeed runs Ulysses without pipeline stages", when=ulysses and staged)
    narrow = plan.compute_dtype if plan.compute_dtype not in ("bf16", "fp16", "fp32", "tf32") else plan.weight_dtype
    odd = narrow not in ("bf16", "fp16", "fp32", "tf32")
    draft.refuse(f"these scripts train in 16 or 32 bits, not {narrow}", when=odd)
    draft.refuse("DeepSpeed keeps states in fp32", when=plan.state_dtype == "bf16")
    wide = not plan.master_weights and plan.weight_dtype not in ("fp32", "tf32")
    draft.refuse("DeepSpeed keeps an fp32 copy of 16-bit weights", when=wide)
    draft.refuse("DeepSpeed trains no layers that predict further ahead", when=plan.mtp_layers)
    group = plan.zero_group and plan.zero_stage
    draft.refuse("DeepSpeed shards within groups only at stage 3 (MiCS)", when=group and plan.zero_stage != 3)
    only3 = plan.offload_weights != "none" and plan.zero_stage != 3
    draft.refuse("DeepSpeed offloads weights only at ZeRO stage 3", when=only3)
    without = plan.offload_optimizer != "none" and plan.zero_stage == 0
    draft.refuse("DeepSpeed offloads states only with ZeRO", when=without)
    disk = plan.offload_optimizer == "nvme" and plan.zero_stage != 3
    draft.refuse("DeepSpeed offloads states to NVMe only at ZeRO stage 3", when=disk)
    draft.refuse("DeepSpeed does not offload activations to NVMe", when=plan.offload_activations == "nvme")
    draft.refuse(
        "DeepSpeed updates offloaded states after the backward pass, not behind it (Fuyou)", when=plan.offload_overlap
    )


def _config(job: TrainingJob, draft: Draft, alone: bool) -> dict[str, Any]:
    plan = job.plan
    config: dict[str, Any] = {
        "train_batch_size": job.global_batch_sequences,
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": job.microbatches,
        "gradient_clipping": 1.0,
        "steps_per_print": 1,
    }
    if plan.weight_dtype in ("bf16", "fp16"):
        config[plan.weight_dtype] = {"enabled": True}
    if plan.optimizer in _OPTIMIZERS:
        config["optimizer"] = {"type": _OPTIMIZERS[plan.optimizer], "params": {"lr": 1e-4}}
    elif alone and plan.optimizer in _TRANSFORMERS:
        config["zero_allow_untested_optimizer"] = True
        config["zero_force_ds_cpu_optimizer"] = False
    else:
        draft.refuse(f"DeepSpeed has no {plan.optimizer} for this script")
    wide = plan.grad_dtype == "fp32" and plan.weight_dtype == "bf16"
    if wide and (plan.zero_stage == 1 or not plan.zero_stage) and plan.offload_optimizer == "none":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    elif plan.grad_dtype == "fp32" and plan.weight_dtype in ("bf16", "fp16"):
        draft.note(f"DeepSpeed keeps gradients in 16 bits here (ZeRO-{plan.zero_stage}), the plan in fp32")
    if plan.zero_stage:
        config["zero_optimization"] = _zero(job, draft)
    if plan.recompute == "full" and (plan.offload_activations == "host" or not alone):
        config["activation_checkpointing"] = {"cpu_checkpointing": plan.offload_activations == "host"}
    offloads = plan.offload_activations == "host"
    draft.refuse("DeepSpeed offloads activations as checkpoints: it needs full recomputation",
                 when=offloads and plan.recompute != "full")  # fmt: skip
    draft.note("transformers checkpoints on the accelerator: cpu_checkpointing needs a model that calls DeepSpeed's",
               when=offloads and alone)  # fmt: skip
    if "nvme" in (plan.offload_optimizer, plan.offload_weights):
        config["aio"] = {"block_size": 1048576, "queue_depth": 8, "overlap_events": True}
        draft.note("set nvme_path to the drive; measure block_size and queue_depth with DeepSpeed's ds_io")
    return config


def _zero(job: TrainingJob, draft: Draft) -> dict[str, Any]:
    plan = job.plan
    zero: dict[str, Any] = {"stage": plan.zero_stage, "overlap_comm": plan.overlap_grad_reduce}
    if plan.zero_stage < 3:
        zero["reduce_scatter"] = True
    for what, field in (("offload_optimizer", plan.offload_optimizer), ("offload_param", plan.offload_weights)):
        if field != "none":
            zero[what] = {"device": _DEVICES[field], "pin_memory": True}
            if field == "nvme":
                zero[what]["nvme_path"] = "/local_nvme"
    if plan.zero_secondary_group:
        zero["zero_hpz_partition_size"] = plan.zero_secondary_group
    if plan.quantized_weights_comm:
        zero["zero_quantized_weights"] = True
    if plan.quantized_gradients_comm:
        zero["zero_quantized_gradients"] = True
    if plan.zero_group:
        zero["mics_shard_size"] = plan.zero_group
    draft.note(
        "at stage 3 weights are prefetched in any case", when=plan.zero_stage == 3 and not plan.overlap_param_gather
    )
    return zero


def _transformers(job: TrainingJob, draft: Draft) -> None:
    """transformers' example script: its arguments must say what the configuration says."""
    plan = job.plan
    name = checkpoint_name(job.model)
    draft.words.append("run_clm.py")
    draft.flag("config_name", name)
    draft.flag("tokenizer_name", name)
    draft.flag("dataset_name", "wikitext")
    draft.flag("dataset_config_name", "wikitext-103-raw-v1")
    draft.flag("do_train")
    draft.flag("block_size", job.seq_len)
    draft.flag("per_device_train_batch_size", plan.micro_batch)
    draft.flag("gradient_accumulation_steps", job.microbatches)
    draft.flag("learning_rate", "1e-4")
    draft.flag("max_steps", 30)
    draft.flag("logging_steps", 1)
    draft.flag("output_dir", "out")
    draft.flag(plan.weight_dtype, when=plan.weight_dtype in ("bf16", "fp16"))
    draft.flag("optim", _TRANSFORMERS.get(plan.optimizer, ""), when=plan.optimizer in _TRANSFORMERS)
    draft.flag("gradient_checkpointing", when=plan.recompute == "full")
    draft.refuse("transformers recomputes whole layers or nothing", when=plan.recompute == "selective")
    draft.refuse("transformers recomputes all layers or none", when=plan.recompute == "full" and plan.recompute_layers)
    draft.flag("deepspeed", FILE)
    draft.note("load the model with attn_implementation=flash_attention_2 (or sdpa)", when=plan.flash_attention)
    draft.note("30 steps on a small public text, to measure the step: replace data, rate and length for a real run")


def _megatron_deepspeed(job: TrainingJob, draft: Draft) -> None:
    plan, model = job.plan, job.model
    draft.words.append("pretrain_gpt.py")
    draft.flag("tensor-model-parallel-size", plan.tensor_parallel)
    draft.flag("sequence-parallel", when=plan.sequence_parallel and plan.tensor_parallel > 1)
    draft.flag("pipeline-model-parallel-size", plan.pipeline_parallel)
    draft.flag("no-pipeline-parallel", when=plan.pipeline_parallel == 1)
    draft.flag("ds-sequence-parallel-size", plan.context_parallel, when=plan.context_parallel > 1)
    if plan.pipeline_parallel > 1:
        held = {sum(chunks) for chunks in chunk_layers(model.layers, plan)}
        draft.refuse(f"Megatron-DeepSpeed needs PP {plan.pipeline_parallel} to divide the {model.layers} layers",
                     when=len(held) > 1)  # fmt: skip
    draft.flag("micro-batch-size", plan.micro_batch)
    draft.flag("global-batch-size", job.global_batch_sequences)
    draft.flag("seq-length", job.seq_len)
    draft.flag("max-position-embeddings", max(job.seq_len, model.learned_positions))
    _shape(job, draft)
    _experts(job, draft)
    if plan.recompute == "full":
        draft.flag("recompute-granularity", "full")
        some = plan.recompute_layers
        draft.flag("recompute-method", "block" if some else "uniform")
        draft.flag("recompute-num-layers", some or 1)
        draft.flag("deepspeed-activation-checkpointing")
    elif plan.recompute == "selective":
        core = plan.recompute_modules == ("core_attention",)
        draft.refuse("Megatron-DeepSpeed recomputes attention's core or whole layers only", when=not core)
        draft.flag("recompute-granularity", "selective")
    draft.flag("use-flash-attn-v2", when=plan.flash_attention)
    for name in ("attention-dropout", "hidden-dropout"):
        draft.flag(name, 0.1 if plan.dropout else 0.0)
    draft.flag(plan.weight_dtype, when=plan.weight_dtype in ("bf16", "fp16"))
    draft.flag("cpu-optimizer", when=plan.offload_optimizer != "none")
    draft.flag("remote-device", _DEVICES.get(plan.offload_weights, ""), when=plan.offload_weights != "none")
    draft.flag("deepspeed")
    draft.flag("deepspeed_config", FILE)
    draft.flag("zero-stage", plan.zero_stage)
    for name, value in (("train-iters", 30), ("lr", "1e-4"), ("log-interval", 1), ("eval-iters", 0)):
        draft.flag(name, value)
    draft.flag("data-path", "DATA")
    draft.flag("tokenizer-type", "HFTokenizer")
    draft.flag("tokenizer-model", checkpoint_name(model))
    draft.note("DATA is the prefix of a data set made with tools/preprocess_data.py; 30 steps measure the step")
    draft.note("expert all-to-all is not overlapped here", when=plan.moe_overlap and plan.expert_parallel > 1)
    draft.note("TP collectives are not overlapped here", when=plan.tp_overlap and plan.tensor_parallel > 1)


def _shape(job: TrainingJob, draft: Draft) -> None:
    model = job.model
    odd = {
        "latent attention": model.latent,
        "windowed attention": model.window_layers,
        "attention sinks": model.attention_sinks,
        "norms of queries and keys": model.qk_norm,
        "ALiBi": model.position == "alibi",
        "attention and MLP side by side": model.parallel_attention,
        "a projected embedding": model.embedding_dim,
        "heads of another width than the hidden width over their number": model.latent is None
        and model.head_dim * model.heads != model.hidden,
        "biases of queries, keys and values alone": model.qkv_bias and not model.mlp_bias,
    }
    for name, has in odd.items():
        draft.refuse(f"Megatron-DeepSpeed's GPT has no {name}", when=has)
    draft.flag("num-layers", model.layers)
    draft.flag("hidden-size", model.hidden)
    draft.flag("ffn-hidden-size", model.moe.expert_ffn if model.moe else model.ffn)
    draft.flag("num-attention-heads", model.heads)
    draft.flag("num-key-value-heads", model.kv_heads, when=model.kv_heads != model.heads)
    draft.flag("use-rotary-position-embeddings", when=model.position == "rope")
    draft.flag("normalization", model.norm)
    draft.flag("swiglu", when=model.gated_mlp)
    draft.flag("disable-bias-linear", when=not model.mlp_bias)
    draft.flag("untie-embeddings-and-output-weights", when=not model.tied_embeddings)


def _experts(job: TrainingJob, draft: Draft) -> None:
    plan, moe = job.plan, job.model.moe
    if moe is None:
        return
    mixed = moe.shared_ffn or moe.dense_layers
    draft.refuse("Megatron-DeepSpeed's experts have one width, no shared expert, and no dense layers among them",
                 when=mixed)  # fmt: skip
    draft.refuse("Megatron-DeepSpeed runs experts without pipeline stages", when=plan.pipeline_parallel > 1)
    draft.flag("num-experts", moe.experts)
    draft.flag("topk", moe.experts_per_token)
    draft.flag("moe-expert-parallel-size", plan.expert_parallel)
    draft.flag("enable-expert-tensor-parallelism", when=plan.expert_tensor > 1)
    odd = plan.expert_tensor not in (1, plan.tensor_parallel)
    draft.refuse("Megatron-DeepSpeed's expert TP degree is 1 or the TP degree", when=odd)
    draft.flag("create-moe-param-group")
    draft.flag("disable-moe-token-dropping")
