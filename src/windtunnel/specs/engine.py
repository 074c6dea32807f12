"""The engine: serving software, its settings and its overheads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windtunnel.specs.depth import DepthSpec
from windtunnel.specs.fields import Bytes, Seconds, Source, Spec
from windtunnel.specs.lora import LoraSpec
from windtunnel.specs.scheduler import SchedulerOptions
from windtunnel.specs.speculation import SpeculativeSpec

HOST_TIMES = (
    "step_host_s", "request_host_s", "overlapped_request_s", "launch_s", "prefill_launch_s", "eager_launch_s",
    "eager_latent_s", "eager_experts_s", "frontend_s", "frontend_token_s",
)  # fmt: skip
"""An engine's times that its server's host decides."""

Fusion = Literal["attention", "all-reduce"]
"""Kernels that some engines let do more: attention that rotates, writes keys and values and quantises its output;
all-reduces that add the residual and normalise."""


class KernelFactors(Spec):
    """How fast an engine's own kernels are, relative to those that the device's constants were fitted to.

    A factor multiplies a rate (share of the peak or of the bandwidth reached) or, for `launch`, the fixed
    time of every kernel. Fitted per engine and version; 1 where nothing is known.
    """

    gemm_compute: float = Field(1.0, gt=0, description="matrix rate of large products")
    gemm_memory: float = Field(1.0, gt=0, description="bandwidth at which weights stream")
    decode_attention: float = Field(1.0, gt=0, description="bandwidth at which decode attention reads the cache")
    prefill_attention: float = Field(1.0, gt=0, description="matrix rate of prefill attention")
    experts_compute: float = Field(1.0, gt=0, description="matrix rate of grouped products")
    experts_memory: float = Field(1.0, gt=0, description="bandwidth at which experts stream")
    collective: float = Field(1.0, gt=0, description="link rate that collectives reach")
    launch: float = Field(1.0, gt=0, description="fixed time of every kernel and collective")
    measured: float = Field(
        1.0,
        gt=0,
        description="speed of measured kernels inside the engine, relative to where they were measured alone",
    )
    narrow_compute: float = Field(
        1.0, gt=0, description="matrix rate of large products in 8 bits and fewer, on top of `gemm_compute`"
    )
    expands_weights: bool = Field(
        False, description="whether narrow weights are expanded in memory before products of many rows"
    )
    load_bytes_per_s: float = Field(
        0.0,
        ge=0,
        description="bytes per second that a processor can have loaded (loads in flight over their latency) in "
        "elementwise kernels and products of a few rows; 0: no limit",
    )
    unpacked_bytes_per_s: float = Field(
        0.0,
        ge=0,
        description="bytes per second and processor at which decode attention reads keys and values once per query "
        "head, where it does not pack the query heads that share them; 0: it always packs",
    )
    packed_groups: tuple[int, ...] = Field(
        (1,), description="query heads per KV head that decode attention packs, with `unpacked_bytes_per_s`"
    )
    apart: bool = Field(False, description="whether q, k and v, and gate and up, are products of their own")
    kernel_clocks: float = Field(
        0.0,
        ge=0,
        description="clocks of the processor that every kernel takes at least, instead of the fixed times of the "
        "device's constants, for kernels that are chains of dependent instructions; 0: those",
    )
    decode_kernels: int = Field(1, ge=1, description="kernels of a layer's decode attention, with `kernel_clocks`")
    converts: bool = Field(
        False, description="whether activations are kept in 32 bits, so that products convert inputs and results"
    )
    fused: tuple[Fusion, ...] = Field(
        (),
        description="kernels that do more than elsewhere: `attention` rotates, writes keys and values and quantises "
        "its output (the norms of queries and keys are one kernel); an `all-reduce` adds the residual and normalises "
        "(in mixtures of experts, and in dense models wider than 4,096 without norms of queries and keys)",
    )
    elementwise_bytes: float = Field(
        1.0, gt=0, description="bytes that norms, activations and the like move, relative to fused kernels in 16 bits"
    )
    elementwise_kernels: float = Field(
        1.0, gt=0, description="kernels of norms, activations and the like, relative to fused ones"
    )
    score_bytes: float = Field(
        0.0, ge=0, description="bytes through memory per head and query-key pair of a prompt; 0 for fused attention"
    )
    narrow_experts: float = Field(
        1.0, gt=0, description="rate of grouped products in 8 bits, on top of `experts_compute` and `experts_memory`"
    )
    sort_bytes: float = Field(
        0.0,
        ge=0,
        description="bytes at full memory bandwidth that sampling costs per logit where it sorts the vocabulary "
        "(top-p, top-k); 0 for the likeliest token",
    )
    narrow_sums: bool = Field(
        False, description="whether 16-bit products are summed in 16 bits, which gaming cards do at twice the rate"
    )


class EngineSpec(Spec):
    """An inference engine. Settings are those a launch command takes; overheads are calibrated per version."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str = ""
    version: str = ""
    scheduler: str = Field("vllm", description="name of the scheduling policy")
    scheduler_options: SchedulerOptions = Field(SchedulerOptions(), description="what only some schedulers ask for")
    max_num_seqs: int = Field(256, ge=1, description="most requests running at once")
    max_num_batched_tokens: int = Field(2048, ge=1, description="token budget of a step")
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    hybrid_kv_cache: bool = Field(
        False,
        description="whether blocks of sliding-window layers are followed one by one (slower), rather than counted "
        "by a typical request's length; without prefix caching and pipeline stages",
    )
    frees_windows: bool = Field(
        True,
        description="whether layers with a sliding window give back the blocks that it has left; otherwise every layer "
        "keeps the keys and values of all tokens",
    )
    eviction: Literal["lru", "lfu", "belady", "learned"] = Field(
        "lru", description="which cached blocks make room; belady knows the workload and bounds the others"
    )
    long_prefill_token_threshold: int = Field(0, ge=0, description="longest prefill chunk; 0 means no limit of its own")
    policy: Literal["fcfs", "priority"] = "fcfs"
    block_size: int = Field(16, ge=1, description="tokens in a KV block")
    max_model_len: int = Field(0, ge=0, description="longest prompt plus output; 0 means the model's maximum")
    watermark: float = Field(0.0, ge=0, lt=1, description="share of KV blocks kept free when admitting")
    memory_utilization: float = Field(0.9, gt=0, le=1, description="share of device memory the engine may take")
    runtime_bytes: Bytes = Field(0.0, ge=0, description="device memory of context, libraries and communication buffers")
    logit_bytes: float = Field(
        14.0,
        ge=0,
        description="bytes per logit alive while sampling: 16-bit, 32-bit, a probability and a random number",
    )
    graph_bytes: Bytes = Field(0.0, ge=0, description="device memory of captured graphs")
    step_host_s: Seconds = Field(0.0, ge=0, description="host time per step that is not hidden behind the device")
    request_host_s: Seconds = Field(0.0, ge=0, description="host time per scheduled request and step, not hidden")
    overlapped_request_s: Seconds = Field(
        0.0, ge=0, description="host time per scheduled request and step that runs beside the device: the longer counts"
    )
    launch_s: Seconds = Field(0.0, ge=0, description="host time to launch one kernel when graphs are off")
    prefill_launch_s: Seconds = Field(
        0.0,
        ge=0,
        description="host time per kernel of a step that holds a prompt, where only decode steps are captured",
    )
    eager_launch_s: Seconds = Field(
        0.0,
        ge=0,
        description="host time to launch one kernel of a step of more than `graph_tokens` tokens, which replays no "
        "captured graph: the longer of launching and running counts",
    )
    eager_latent_s: Seconds = Field(
        0.0,
        ge=0,
        description="further host time of such a step per layer with latent attention, whose prompts take many small "
        "operations",
    )
    eager_experts_s: Seconds = Field(
        0.0,
        ge=0,
        description="further host time of such a step per layer of experts, on architectures of `unfused_experts`",
    )
    unfused_experts: tuple[str, ...] = Field(
        (), description="architectures on which the engine's recipes run experts as many kernels rather than as one"
    )
    graph_tokens: int = Field(512, ge=1, description="most tokens of a step that replays a captured graph")
    prefill_step_s: Seconds = Field(
        0.0,
        ge=0,
        description="time that the device waits in a step that holds a prompt, where only decode steps are captured",
    )
    unpacked_rate: dict[str, float] = Field(
        default_factory=dict,
        description="rate at which decode attention beside a prompt reads keys and values, relative to the memory "
        "bandwidth, by architecture: where the attention kernel packs the query heads of a KV head only in steps "
        "without prompts, it reads them once per query head",
    )
    step_device_s: Seconds = Field(
        0.0,
        ge=0,
        description="time per step that the device spends outside the model: input preparation, metadata, copies",
    )
    capture_tokens: int = Field(
        0,
        ge=0,
        description="most tokens of a step that replays a captured graph; smaller steps are padded up to a captured "
        "size (see `cost.padding`); 0: no padding",
    )
    async_scheduling: bool = Field(
        False, description="whether a step is composed while the one before is under way, so that host time is hidden"
    )
    overlap_scheduling: bool = Field(
        False,
        description="whether the next step is composed when one starts, so that a request that arrives meanwhile is in "
        "the step after that one at the earliest (an idle engine takes it up at once). `async_scheduling` implies it. "
        "Without effect with pipeline stages, with drafts that the host must know first, and on processors that are "
        "the host's own",
    )
    frontend_s: Seconds = Field(
        0.0,
        ge=0,
        description="time of a request outside the scheduler before its first token: HTTP, tokenisation, "
        "hand-over; holds up nobody else",
    )
    frontend_token_s: Seconds = Field(
        0.0,
        ge=0,
        description="the same per prompt token, where one process turns prompts into tokens one after the other",
    )
    speculative: SpeculativeSpec | None = Field(None, description="speculative decoding, with the scheduler vllm")
    lora: LoraSpec | None = Field(None, description="LoRA adapters, with the scheduler vllm")
    depth: DepthSpec | None = Field(None, description="early exit from the layers when decoding")
    graphs: bool = Field(True, description="whether decode steps replay captured graphs")
    reserve_output: bool = Field(
        False,
        description="whether a request is admitted only with cache for its whole output, so that none is preempted",
    )
    cache_share_of_free: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the memory left after weights and activations that the cache takes; "
        "0: the engine sizes the cache by memory_utilization",
    )
    kernels: KernelFactors = KernelFactors()
    sources: tuple[Source, ...] = ()
