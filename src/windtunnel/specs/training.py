"""The training plan and job: how a model is laid out, and on what it trains.

Ranks are numbered as Megatron-LM numbers them: tensor, then context, then data, then pipeline, the
first varying fastest. Expert-parallel groups are taken out of the ranks of one pipeline stage
(tensor x context x data), so expert parallelism adds no accelerators.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec
from windtunnel.specs.model import ModelSpec

TrainingDtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
"""Number formats of training arithmetic; `fp8` scales per tensor, `mxfp8` and `nvfp4` per block."""

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "dualpipe"]
Optimizer = Literal[
    "adamw",
    "sgd",
    "sgd-momentum",
    "lion",
    "adafactor",
    "adamw-8bit",
    "apollo",
    "apollo-mini",
    "galore",
    "frugal",
    "cosmos",
    "muon",
]
RecomputeModule = Literal["core_attention", "norm", "activation", "mlp", "moe", "latent_up"]
TrainingEngine = Literal["megatron", "torchtitan", "deepspeed", "fsdp", "internevo"]
Offload = Literal["none", "host", "nvme"]

DTYPE_BYTES_TRAINING: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    # 32-value blocks with an 8-bit exponent; 16-value blocks with an fp8 scale.
    "mxfp8": 1.0 + 1.0 / 32.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
    # Weights only: groups of 256 with an fp32 scale and zero point (Q-GaLore, arXiv:2407.08296); 4-bit
    # NormalFloat in blocks of 64 with doubly quantised scales (QLoRA, arXiv:2305.14314, section 3).
    "int8": 1.0 + 8.0 / 256.0,
    "nf4": 0.5 + 1.0 / 64.0 + 4.0 / (64.0 * 256.0),
}
"""Bytes per value of a training format, block scales included."""


class TrainingPlan(Spec):
    """Parallel layout, number formats, recomputation, sharding and offload of one training job."""

    tensor_parallel: int = Field(1, ge=1, description="TP degree")
    sequence_parallel: bool = Field(False, description="norms and residuals sharded over the TP ranks")
    pipeline_parallel: int = Field(1, ge=1, description="PP degree")
    virtual_stages: int = Field(1, ge=1, description="model chunks per pipeline rank")
    schedule: Schedule = Field(
        "1f1b", description="pipeline schedule; more than one virtual stage makes it interleaved"
    )
    stage_layers: tuple[int, ...] = Field((), description="layers of each pipeline rank; empty: as even as they go")
    context_parallel: int = Field(1, ge=1, description="CP degree")
    context_method: Literal["ring", "ulysses"] = Field("ring", description="how context-parallel ranks attend")
    context_balanced: bool = Field(True, description="a ring rank holds an early and a late piece of the sequence")
    expert_parallel: int = Field(1, ge=1, description="EP degree")
    expert_tensor_parallel: int = Field(0, ge=0, description="TP degree inside an expert; 0: 1 with experts spread out")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="sharded over data-parallel ranks: 1 optimiser states, 2 and gradients, 3 and weights (FSDP)"
    )
    zero_group: int = Field(0, ge=0, description="ranks over which states are sharded (HSDP, MiCS); 0: all")
    zero_weight_group: int = Field(0, ge=0, description="ranks over which ZeRO-3 shards weights; 0: as the rest")
    zero_secondary_group: int = Field(0, ge=0, description="ranks that share a second copy of weights (ZeRO++ hpZ)")
    quantized_weights_comm: bool = Field(False, description="weights gathered in 8 bits (ZeRO++ qwZ)")
    quantized_gradients_comm: bool = Field(False, description="gradients reduced in 4 bits (ZeRO++ qgZ)")
    micro_batch: int = Field(1, ge=1, description="sequences per microbatch and data-parallel rank")
    recompute: Literal["none", "selective", "full"] = Field("none", description="activations computed again")
    recompute_modules: tuple[RecomputeModule, ...] = Field(
        ("core_attention",), description="what selective recomputation computes again"
    )
    recompute_layers: int = Field(0, ge=0, description="layers per rank that recompute; 0: all")
    weight_dtype: TrainingDtype | Literal["int8"] = Field("bf16", description="weights that forward and backward read")
    compute_dtype: TrainingDtype = Field("bf16", description="matrix arithmetic of the linear layers")
    grad_dtype: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="gradients, accumulated and reduced")
    attention_dtype: Literal["bf16", "fp16", "fp8"] = Field("bf16", description="arithmetic of attention scores")
    optimizer: Optimizer = "adamw"
    optimizer_rank: int = Field(0, ge=0, description="rank of low-rank optimisers; 0: their papers' own")
    master_weights: bool = Field(True, description="an fp32 copy of the weights among the optimiser's states")
    state_dtype: Literal["fp32", "bf16"] = Field("fp32", description="optimiser states beside an fp32 copy of weights")
    narrow_activations: bool = Field(False, description="inputs of activation functions kept in 8 bits")
    offload_optimizer: Offload = "none"
    offload_activations: Offload = "none"
    offload_weights: Offload = "none"
    offload_overlap: bool = Field(False, description="offloaded updates run behind the backward pass, not after it")
    flash_attention: bool = Field(True, description="scores are never written to memory")
    flash_version: Literal[0, 1, 2, 3] = Field(0, description="generation of FlashAttention; 0: the device's newest")
    fused_sinks: bool = Field(
        True, description="attention sinks in the device's newest kernel; off: slower, and windows are not skipped"
    )
    dropout: bool = Field(False, description="dropout on embedding, attention and residuals, whose masks are kept")
    layerwise_update: bool = Field(False, description="each layer's weights updated and its gradients freed at once")
    fused_kernels: bool = Field(True, description="norms, activations, rotary embedding and loss as fused kernels")
    overlap_grad_reduce: bool = Field(True, description="gradients reduced while the backward pass runs")
    overlap_param_gather: bool = Field(True, description="sharded weights gathered while the forward pass runs")
    overlap_p2p: bool = Field(True, description="pipeline messages sent while other microbatches compute")
    tp_overlap: bool = Field(False, description="TP collectives split and overlapped with their products")
    moe_overlap: bool = Field(False, description="expert all-to-all overlapped with another microbatch's compute")
    moe_dedupe: bool = Field(False, description="a token goes to a node once, however many of its experts are there")
    moe_fused_dispatch: bool = Field(
        False,
        description="tokens leave once per rank and node and are laid out by expert as they arrive (DeepEP, HybridEP)",
    )
    moe_fused_experts: bool = Field(
        False, description="activation, bias and narrow copies of the experts inside their grouped products"
    )
    moe_paged_stash: bool = Field(
        False, description="what experts keep for the backward pass is copied out of worst-case buffers and back"
    )
    moe_imbalance: float = Field(1.0, ge=1, description="load of the busiest expert-parallel rank over the mean")
    cuda_graphs: bool = Field(False, description="kernels launched as captured graphs")
    mtp_layers: int = Field(
        0, ge=0, description="layers that predict tokens further ahead, each with the head (DeepSeek-V3, section 2.2)"
    )
    lora_rank: int = Field(0, ge=0, description="rank of LoRA adapters; 0: all weights train")
    lora_base_dtype: TrainingDtype | Literal["nf4", "int8"] = Field("bf16", description="frozen weights under LoRA")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingPlan:
        if self.virtual_stages > 1 and self.pipeline_parallel == 1:
            raise ValueError(f"virtual_stages ({self.virtual_stages}) needs pipeline_parallel above 1")
        if self.virtual_stages > 1 and self.schedule not in ("1f1b", "interleaved"):
            raise ValueError(f"virtual_stages ({self.virtual_stages}) does not go with schedule {self.schedule!r}")
        if self.stage_layers and len(self.stage_layers) != self.pipeline_parallel:
            raise ValueError(
                f"stage_layers has {len(self.stage_layers)} entries for pipeline_parallel {self.pipeline_parallel}"
            )
        return self

    @property
    def model_ranks(self) -> int:
        """Accelerators of one copy of the model's work: TP x CP x PP."""
        return self.tensor_parallel * self.context_parallel * self.pipeline_parallel

    @property
    def pipeline_schedule(self) -> Schedule:
        """The schedule that runs: interleaved as soon as a rank holds several chunks, none on one rank."""
        if self.pipeline_parallel == 1:
            return "1f1b"
        return "interleaved" if self.virtual_stages > 1 else self.schedule

    @property
    def expert_tensor(self) -> int:
        """TP degree inside an expert: as stated, else TP without expert parallelism and 1 with it."""
        if self.expert_tensor_parallel:
            return self.expert_tensor_parallel
        return self.tensor_parallel if self.expert_parallel == 1 else 1

    def label(self) -> str:
        """Short text such as `TP4 PP2x4 CP1 EP8 ZeRO1 mb1 full bf16`."""
        pipeline = f"PP{self.pipeline_parallel}" + (f"x{self.virtual_stages}" if self.virtual_stages > 1 else "")
        parts = [f"TP{self.tensor_parallel}", pipeline]
        if self.context_parallel > 1:
            parts.append(f"CP{self.context_parallel}")
        if self.expert_parallel > 1:
            parts.append(f"EP{self.expert_parallel}")
        if self.zero_stage:
            parts.append(f"ZeRO{self.zero_stage}" + (f"/{self.zero_group}" if self.zero_group else ""))
        parts.append(f"mb{self.micro_batch}")
        if self.recompute != "none":
            parts.append(f"{self.recompute} recompute")
        return " ".join([*parts, self.compute_dtype])


class TrainingJob(Spec):
    """One training job: model, cluster, batch and plan. Every name is already resolved.

    `specs.training_check.training_job` builds one from names and checks it as a whole.
    """

    model: ModelSpec
    accelerator: AcceleratorSpec
    node: NodeSpec
    scale_up: FabricSpec = Field(description="link between the node's accelerators")
    scale_out: FabricSpec = Field(description="link between nodes")
    gpus: int = Field(ge=1, description="accelerators")
    global_batch_sequences: int = Field(ge=1, description="sequences per optimiser step")
    seq_len: int = Field(ge=1, description="tokens per sequence")
    plan: TrainingPlan = TrainingPlan()
    engine: TrainingEngine = Field("megatron", description="whose habits fill what the plan leaves open")

    @property
    def data_parallel(self) -> int:
        """DP degree: what the plan's TP, CP and PP leave of the accelerators."""
        return self.gpus // self.plan.model_ranks

    @property
    def microbatches(self) -> int:
        """Microbatches per optimiser step and data-parallel rank (gradient accumulation)."""
        return self.global_batch_sequences // (self.data_parallel * self.plan.micro_batch)

    @property
    def tokens(self) -> int:
        """Tokens per optimiser step."""
        return self.global_batch_sequences * self.seq_len

    @property
    def rank_tokens(self) -> int:
        """Tokens of a microbatch on one context-parallel rank, before sequence parallelism."""
        return self.plan.micro_batch * self.seq_len // self.plan.context_parallel

    @property
    def zero_ranks(self) -> int:
        """Ranks over which optimiser states (and by stage gradients, weights) are sharded.

        Context-parallel ranks hold the same weights, so they count as data-parallel ones here.
        """
        if not self.plan.zero_stage:
            return 1
        return self.plan.zero_group or self.data_parallel * self.plan.context_parallel

    @property
    def expert_data_parallel(self) -> int:
        """Copies of each routed expert: the ranks of a stage over EP x expert TP."""
        stage = self.gpus // self.plan.pipeline_parallel
        return stage // (self.plan.expert_parallel * self.plan.expert_tensor)


def chunk_layers(layers: int, plan: TrainingPlan) -> tuple[tuple[int, ...], ...]:
    """Layers of every chunk of every pipeline rank, [rank][chunk].

    Even shares where they divide. Otherwise embedding and head count as a layer each when that
    divides (Llama 3's 126 layers over 16 ranks, arXiv:2407.21783 section 3.3.2), then the head
    alone, and else the ends of the pipeline hold one layer less than its middle. Layers that predict
    further ahead count as one each and make room at the end (DeepSeek-V3's layout in Megatron-Bridge).

    >>> chunk_layers(6, TrainingPlan(pipeline_parallel=4))
    ((1,), (2,), (2,), (1,))
    >>> chunk_layers(61, TrainingPlan(pipeline_parallel=16, mtp_layers=1))[-1]
    (1,)
    """
    ranks, chunks = plan.pipeline_parallel, plan.virtual_stages
    if plan.stage_layers:
        return tuple(_dealt(held, chunks) for held in plan.stage_layers)
    total = ranks * chunks
    ends = plan.mtp_layers + 2
    if plan.mtp_layers and total > 1 and (layers + ends) % total == 0:
        each = (layers + ends) // total
        held = [each] * total
        held[-1] -= min(ends, each)
        held[0] -= ends - min(ends, each)
        return tuple(tuple(held[chunk * ranks + rank] for chunk in range(chunks)) for rank in range(ranks))
    each, extra = divmod(layers, total)
    held = [each] * total
    if extra:
        # The middle first, then the embedding's chunk; the head's chunk last.
        for i in [*range(1, total - 1), 0][:extra]:
            held[i] += 1
    return tuple(tuple(held[chunk * ranks + rank] for chunk in range(chunks)) for rank in range(ranks))


def _dealt(layers: int, chunks: int) -> tuple[int, ...]:
    each, extra = divmod(layers, chunks)
    return tuple(each + (1 if i < extra else 0) for i in range(chunks))
