"""Arguments of Megatron-LM's `pretrain_gpt.py` for a training job.

Names and rules as in the argument parser of Megatron-LM with Megatron Core 0.15 (`megatron/training/arguments.py`).
"""

from __future__ import annotations

from windtunnel.report.launch_training import Draft, TrainingLaunch, common_refusals, place_notes, torchrun
from windtunnel.specs.training import TrainingJob, chunk_layers

ENGINE = "Megatron-LM (Megatron Core 0.15)"
_MODULES = {
    "core_attention": "core_attn",
    "norm": "layernorm",
    "activation": "moe_act",
    "mlp": "mlp",
    "moe": "moe",
    "latent_up": "mla_up_proj",
}


def megatron(job: TrainingJob) -> TrainingLaunch:
    """`torchrun ... pretrain_gpt.py ...`, or why not."""
    draft = Draft()
    _refusals(job, draft)
    _environment(job, draft)
    draft.words += [*torchrun(job), "pretrain_gpt.py"]
    place_notes(job, draft)
    _parallel(job, draft)
    _layers(job, draft)
    _batch(job, draft)
    _recompute(job, draft)
    _precision(job, draft)
    _optimizer(job, draft)
    _overlap(job, draft)
    _kernels(job, draft)
    _model(job, draft)
    _experts(job, draft)
    _run(job, draft)
    return draft.launch(ENGINE)


def _refusals(job: TrainingJob, draft: Draft) -> None:
    plan, model = job.plan, job.model
    common_refusals(job, draft, "Megatron-LM")
    schedule = plan.pipeline_schedule
    draft.refuse(
        f"Megatron-LM runs 1F1B and interleaved pipelines, not {schedule}",
        when=plan.pipeline_parallel > 1 and schedule not in ("1f1b", "interleaved"),
    )
    draft.refuse(
        f"Megatron-LM shards gradients and weights (ZeRO-{plan.zero_stage}) only without pipeline stages",
        when=plan.zero_stage > 1 and plan.pipeline_parallel > 1,
    )
    draft.refuse(
        "Megatron-LM spreads experts under tensor parallelism only with sequence parallelism",
        when=model.moe is not None and plan.tensor_parallel > 1 and not plan.sequence_parallel,
    )
    draft.refuse("Megatron-LM keeps weights on the accelerator", when=plan.offload_weights != "none")
    disk = "nvme" in (plan.offload_optimizer, plan.offload_activations)
    draft.refuse("Megatron-LM does not offload to NVMe", when=disk)
    if plan.offload_activations == "host":
        alone = plan.pipeline_parallel == 1 and plan.recompute == "none"
        draft.refuse("Megatron-LM offloads activations only without pipeline and recomputation", when=not alone)
    shape = {
        "attention and MLP side by side": model.parallel_attention,
        "ALiBi": model.position == "alibi",
        "a projected embedding": model.embedding_dim,
        "a gate on attention's output": model.attention_gate,
        f"{model.norms_per_layer} norms per layer": model.norms_per_layer != 2 and not model.parallel_attention,
    }
    for name, has in shape.items():
        draft.refuse(f"pretrain_gpt.py has no flag for {name}", when=has)
    full = model.layers - model.window_layers
    draft.refuse(
        f"pretrain_gpt.py cannot place {model.window_layers} windowed layers among {model.layers}",
        when=model.window_layers and full and model.layers % full,
    )


def _environment(job: TrainingJob, draft: Draft) -> None:
    """One hardware queue orders tensor-parallel collectives before Blackwell; sharded weights need several."""
    plan = job.plan
    ordered = (plan.tensor_parallel > 1 or plan.context_parallel > 1) and job.accelerator.architecture != "blackwell"
    if ordered and plan.zero_stage < 2 and not plan.moe_overlap:
        draft.words.append("CUDA_DEVICE_MAX_CONNECTIONS=1")


def _parallel(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    draft.flag("tensor-model-parallel-size", plan.tensor_parallel)
    draft.flag("sequence-parallel", when=plan.sequence_parallel and plan.tensor_parallel > 1)
    draft.flag("pipeline-model-parallel-size", plan.pipeline_parallel)
    if plan.context_parallel > 1:
        draft.flag("context-parallel-size", plan.context_parallel)
        draft.flag("cp-comm-type", "p2p" if plan.context_method == "ring" else "a2a")
        uneven = plan.context_method == "ring" and not plan.context_balanced
        draft.note("Megatron-LM always gives a ring rank an early and a late piece of the sequence", when=uneven)
    if plan.zero_stage:
        draft.flag("use-distributed-optimizer", when=plan.optimizer != "muon")
    if plan.zero_stage > 1:
        shards = "optim_grads" if plan.zero_stage == 2 else "optim_grads_params"
        draft.flag("use-megatron-fsdp")
        draft.flag("data-parallel-sharding-strategy", shards)
        draft.flag("ckpt-format", "fsdp_dtensor")
    if plan.zero_stage and plan.zero_group:
        copies = job.data_parallel * plan.context_parallel // plan.zero_group
        draft.flag("num-distributed-optimizer-instances", copies, when=copies > 1)


def _layers(job: TrainingJob, draft: Draft) -> None:
    """How layers are dealt to pipeline stages: the short flags where they say it, else the layout stage by stage."""
    plan, model = job.plan, job.model
    ranks, chunks = plan.pipeline_parallel, plan.virtual_stages
    draft.flag("mtp-num-layers", plan.mtp_layers, when=plan.mtp_layers)
    if ranks == 1:
        return
    dealt = chunk_layers(model.layers, plan)
    along = [dealt[stage % ranks][stage // ranks] for stage in range(ranks * chunks)]
    middle = max(along)
    ends = (middle - along[0], middle - along[-1])
    simple = set(along[1:-1]) <= {middle} and all(end in (0, 1) for end in ends) and not plan.mtp_layers
    if not simple:
        stages = ["t" * held for held in along]
        stages[0] = "E" + stages[0]
        stages[-1] += "m" * plan.mtp_layers + "L"
        draft.flag("pipeline-model-parallel-layout", "|".join(stages))
        return
    draft.flag("account-for-embedding-in-pipeline-split", when=ends[0])
    draft.flag("account-for-loss-in-pipeline-split", when=ends[1])
    draft.flag("num-layers-per-virtual-pipeline-stage", middle, when=chunks > 1)


def _batch(job: TrainingJob, draft: Draft) -> None:
    draft.flag("micro-batch-size", job.plan.micro_batch)
    draft.flag("global-batch-size", job.global_batch_sequences)
    draft.flag("seq-length", job.seq_len)
    draft.flag("max-position-embeddings", max(job.seq_len, job.model.learned_positions))


def _recompute(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    if plan.recompute == "none":
        return
    draft.flag("recompute-granularity", plan.recompute)
    if plan.recompute == "full":
        some = plan.recompute_layers
        # Megatron-LM counts them per chunk.
        each = some // plan.virtual_stages
        draft.flag("recompute-method", "block" if some else "uniform")
        draft.flag("recompute-num-layers", each if some else 1)
        uneven = some and some % plan.virtual_stages
        draft.refuse(f"{some} recomputed layers cannot be shared by {plan.virtual_stages} chunks evenly", when=uneven)
        return
    dense = "activation" in plan.recompute_modules and job.model.moe is None
    draft.refuse("Megatron-LM recomputes activation functions of experts only", when=dense)
    draft.flag("recompute-modules", *(_MODULES[name] for name in plan.recompute_modules))
    draft.note("selective recomputation applies to all layers", when=plan.recompute_layers)


def _wide(job: TrainingJob) -> str:
    """The format of what narrow products leave as it is."""
    return job.plan.weight_dtype if job.plan.weight_dtype in ("fp16", "fp32", "tf32") else "bf16"


def _precision(job: TrainingJob, draft: Draft) -> None:
    plan, wide = job.plan, _wide(job)
    draft.refuse("Megatron-LM does not train 8-bit integer weights", when=plan.weight_dtype == "int8")
    draft.flag(wide, when=wide in ("bf16", "fp16"))
    if plan.compute_dtype == "fp8":
        draft.flag("fp8-format", "hybrid")
        draft.flag("fp8-recipe", "tensorwise")
    elif plan.compute_dtype == "mxfp8":
        draft.flag("fp8-format", "e4m3")
        draft.flag("fp8-recipe", "mxfp8")
    elif plan.compute_dtype == "nvfp4":
        draft.flag("fp4-format", "e2m1")
        draft.flag("fp4-recipe", "nvfp4")
    draft.flag("fp8-param-gather", when=plan.weight_dtype in ("fp8", "mxfp8"))
    draft.flag("fp4-param-gather", when=plan.weight_dtype == "nvfp4")
    draft.flag("grad-reduce-in-bf16", when=plan.grad_dtype == "bf16" and wide == "bf16")
    draft.flag("accumulate-allreduce-grads-in-fp32", when=plan.grad_dtype == "fp32" and wide == "fp16")
    draft.note("attention's scores stay in 16 bits: no flag moves them to fp8", when=plan.attention_dtype == "fp8")


def _optimizer(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    names = {"adamw": "adam", "sgd": "sgd", "sgd-momentum": "sgd", "muon": "dist_muon" if plan.zero_stage else "muon"}
    if plan.optimizer not in names:
        draft.refuse(f"Megatron-LM has Adam, SGD and Muon, not {plan.optimizer}")
        return
    draft.flag("optimizer", names[plan.optimizer])
    draft.flag("sgd-momentum", 0.0, when=plan.optimizer == "sgd")
    draft.refuse("Megatron-LM keeps an fp32 copy of the weights", when=not plan.master_weights)
    if plan.optimizer == "muon":
        draft.refuse("Megatron-FSDP does not run Muon", when=plan.zero_stage > 1)
        draft.flag("ckpt-format", "torch")
        draft.note("Muon's states are dealt to ranks matrix by matrix, not in even slices", when=plan.zero_stage)
    narrow, host = plan.state_dtype == "bf16", plan.offload_optimizer == "host"
    if narrow or host:
        what = "16-bit states" if narrow else "offloaded states"
        fits = plan.optimizer == "adamw" and plan.zero_stage >= 1
        draft.refuse(f"Megatron-LM has {what} only for Adam with its distributed optimiser", when=not fits)
        draft.flag("use-precision-aware-optimizer")
    if narrow:
        draft.flag("exp-avg-dtype", "bf16")
        draft.flag("exp-avg-sq-dtype", "bf16")
    if host:
        draft.flag("optimizer-cpu-offload")
        draft.flag("optimizer-offload-fraction", 1.0)
        draft.flag("overlap-cpu-optimizer-d2h-h2d", when=plan.offload_overlap)
    if plan.offload_activations == "host":
        draft.flag("cpu-offloading-num-layers", job.model.layers - 1)
        draft.note("activations of one layer stay: Megatron-LM offloads all layers but one at most")


def _overlap(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    shared = job.data_parallel * plan.context_parallel > 1
    draft.flag("overlap-grad-reduce", when=plan.overlap_grad_reduce and shared)
    if plan.overlap_param_gather and plan.zero_stage and shared:
        draft.flag("overlap-param-gather", when=plan.overlap_grad_reduce and plan.optimizer != "muon")
        draft.note("weights are gathered behind the forward pass only together with overlapped gradients",
                   when=not plan.overlap_grad_reduce)  # fmt: skip
    if plan.virtual_stages > 1:
        draft.flag("no-overlap-p2p-communication", when=not plan.overlap_p2p)
    elif plan.pipeline_parallel > 1 and plan.overlap_p2p:
        draft.note("Megatron-LM overlaps pipeline messages only with virtual stages")
    if plan.tp_overlap and plan.tensor_parallel > 1:
        draft.flag("tp-comm-overlap")
        draft.refuse(
            "Megatron-LM overlaps TP collectives only with sequence parallelism", when=not plan.sequence_parallel
        )


def _kernels(job: TrainingJob, draft: Draft) -> None:
    plan = job.plan
    draft.flag("attention-backend", "unfused", when=not plan.flash_attention)
    if plan.fused_kernels:
        draft.flag("cross-entropy-loss-fusion")
    else:
        for name in ("no-masked-softmax-fusion", "no-bias-gelu-fusion", "no-bias-swiglu-fusion"):
            draft.flag(name)
        for name in ("no-bias-dropout-fusion", "no-rope-fusion"):
            draft.flag(name)
    for name in ("attention-dropout", "hidden-dropout"):
        draft.flag(name, 0.1 if plan.dropout else 0.0)
    if plan.cuda_graphs:
        draft.refuse("Megatron-LM captures no graphs under full recomputation", when=plan.recompute == "full")
        draft.flag("cuda-graph-impl", "transformer_engine")


def _model(job: TrainingJob, draft: Draft) -> None:
    model, tensor = job.model, job.plan.tensor_parallel
    draft.flag("num-layers", model.layers)
    draft.flag("hidden-size", model.hidden)
    draft.flag("ffn-hidden-size", model.ffn or (model.moe.expert_ffn if model.moe else 0))
    draft.flag("num-attention-heads", model.heads)
    if model.latent is not None:
        a = model.latent
        draft.flag("multi-latent-attention")
        draft.flag("q-lora-rank", a.q_lora_rank, when=a.q_lora_rank)
        draft.flag("kv-lora-rank", a.kv_lora_rank)
        draft.flag("qk-head-dim", a.qk_nope_head_dim)
        draft.flag("qk-pos-emb-head-dim", a.qk_rope_head_dim)
        draft.flag("v-head-dim", a.v_head_dim)
    else:
        draft.flag("kv-channels", model.head_dim, when=model.head_dim * model.heads != model.hidden)
        grouped = model.kv_heads != model.heads
        draft.flag("group-query-attention", when=grouped)
        draft.flag("num-query-groups", model.kv_heads, when=grouped)
    draft.flag("position-embedding-type", "rope" if model.position == "rope" else "learned_absolute")
    draft.flag("normalization", "RMSNorm" if model.norm == "rmsnorm" else "LayerNorm")
    draft.flag("swiglu", when=model.gated_mlp)
    draft.flag("disable-bias-linear", when=not (model.mlp_bias or model.attention_out_bias))
    draft.flag("add-qkv-bias", when=model.qkv_bias and not (model.mlp_bias or model.attention_out_bias))
    draft.flag("untie-embeddings-and-output-weights", when=not model.tied_embeddings)
    draft.flag("qk-layernorm", when=model.qk_norm)
    draft.flag("softmax-type", "learnable", when=model.attention_sinks)
    if model.window_layers:
        full = model.layers - model.window_layers
        draft.flag("window-size", f"{model.window_tokens},0")
        draft.flag("window-attn-skip-freq", model.layers // full if full else 0, when=full)
    # The null tokenizer adds one token; the vocabulary is padded to a multiple of the divisor times TP.
    draft.flag("vocab-size", model.vocab - 1)
    divisor = next(
        power for power in (128, 64, 32, 16, 8, 4, 2, 1) if model.vocab % (power * tensor) == 0 or power == 1
    )
    draft.flag("make-vocab-size-divisible-by", divisor, when=divisor != 128)


def _experts(job: TrainingJob, draft: Draft) -> None:
    plan, moe = job.plan, job.model.moe
    if moe is None:
        return
    draft.flag("num-experts", moe.experts)
    draft.flag("moe-router-topk", moe.experts_per_token)
    draft.flag("moe-ffn-hidden-size", moe.expert_ffn)
    draft.flag("moe-shared-expert-intermediate-size", moe.shared_ffn, when=moe.shared_ffn)
    draft.note("the gate on the shared expert's output has no flag", when=moe.shared_gate)
    if moe.dense_layers:
        draft.flag("moe-layer-freq", f"([0]*{moe.dense_layers}+[1]*{job.model.layers - moe.dense_layers})")
    draft.refuse("Megatron-LM groups experts' products only in bf16 training", when=_wide(job) != "bf16")
    draft.flag("moe-grouped-gemm")
    draft.flag("moe-permute-fusion", when=plan.fused_kernels)
    draft.flag("expert-model-parallel-size", plan.expert_parallel)
    draft.flag("expert-tensor-parallel-size", plan.expert_tensor)
    draft.note("pages for what experts keep (moe_paged_stash) need a later Megatron Core", when=plan.moe_paged_stash)
    fused = "activation and narrow copies inside the grouped products need a later Transformer Engine"
    draft.note(fused, when=plan.moe_fused_experts)
    direct = (plan.moe_dedupe or plan.moe_fused_dispatch) and plan.expert_parallel > 1
    draft.flag("moe-token-dispatcher-type", "flex" if direct else "alltoall")
    draft.flag("moe-enable-deepep", when=direct)
    if plan.moe_overlap and plan.expert_parallel > 1:
        draft.flag("overlap-moe-expert-parallel-comm")
        staged = plan.pipeline_parallel > 1 and plan.virtual_stages == 1
        draft.refuse("Megatron-LM overlaps expert all-to-all in a pipeline only with virtual stages", when=staged)
        draft.refuse(
            "Megatron-LM overlaps expert all-to-all only without full recomputation", when=plan.recompute == "full"
        )


def _run(job: TrainingJob, draft: Draft) -> None:
    """A short run on mock data that measures the step."""
    draft.flag("tokenizer-type", "NullTokenizer")
    draft.flag("mock-data")
    draft.flag("train-iters", 30)
    draft.flag("eval-iters", 0)
    draft.flag("lr", "1e-4")
    draft.flag("log-interval", 1)
    draft.flag("log-throughput")
    draft.note("30 steps on mock data, to measure the step: replace data, tokenizer, rate and length for a real run")
    scaled = job.model.position == "rope"
    draft.note("add the model's rotary base and scaling (--rotary-base, --use-rope-scaling)", when=scaled)
