"""The schedulers by name: what each one is, and where its rules come from.

Importing this costs nothing; the modules themselves are part of the kernel (`kernel.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windtunnel.errors import Problem, SpecError, nearest

Queue = Literal["policy", "key", "scan"]


@dataclass(frozen=True, slots=True)
class SchedulerInfo:
    """A scheduler.

    Attributes:
        name: what `EngineSpec.scheduler` and `SchedulerSettings.scheduler` call it.
        title: its name in full.
        source: the paper or code that its rules follow.
        summary: what it does, in one line.
        module: its module below `windtunnel.serving`.
        queue: how waiting requests are kept: `policy` (first come first served or by priority, as
            the engine's setting says), `key` (by a number known at arrival), `scan` (a list that
            the scheduler orders anew as it goes).
        whole_prompts: prompts are never chunked.
        swaps: preempted requests are swapped to the host unless the options say otherwise.
        may_swap: whether swapping can be asked for.
        overlaps: swapping runs beside the step before.
        variant: which of the policies of its module it is.
        starves: a request may wait for ever while others keep coming (declared, not a fault).
    """

    name: str
    title: str
    source: str
    summary: str
    module: str
    queue: Queue = "policy"
    whole_prompts: bool = False
    swaps: bool = False
    may_swap: bool = False
    overlaps: bool = False
    variant: int = 0
    starves: bool = False


_ALL = (
    SchedulerInfo(
        "vllm",
        "vLLM v1",
        "vLLM 0.32, vllm/v1/core/sched/scheduler.py and kv_cache_manager.py",
        "running requests first, then waiting ones, from one budget of tokens; preemption by recomputation",
        "vllm",
    ),
    SchedulerInfo(
        "static",
        "static batching",
        "FasterTransformer's serving, as described in Yu et al., Orca, OSDI 2022, section 2",
        "a batch starts together and ends together with its longest output",
        "schedulers.static_batching",
        whole_prompts=True,
    ),
    SchedulerInfo(
        "orca",
        "Orca",
        "Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative Models, OSDI 2022",
        "iteration-level batching of whole prompts beside decodes, memory reserved to the end",
        "schedulers.orca",
        whole_prompts=True,
    ),
    SchedulerInfo(
        "vllm-v0",
        "vLLM before v1",
        "Kwon et al., PagedAttention, SOSP 2023; vLLM 0.6, vllm/core/scheduler.py",
        "prompts first, in steps of their own; preemption by recomputation or swapping",
        "schedulers.vllm_v0",
        whole_prompts=True,
        may_swap=True,
    ),
    SchedulerInfo(
        "sarathi",
        "Sarathi-Serve",
        "Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve, OSDI 2024",
        "stall-free: decodes first, prompts in chunks with what is left of the token budget",
        "schedulers.sarathi",
    ),
    SchedulerInfo(
        "splitfuse",
        "DeepSpeed-FastGen",
        "Holmes et al., DeepSpeed-FastGen, arXiv:2401.08671; DeepSpeed-MII, mii/batching/ragged_batching.py",
        "Dynamic SplitFuse: passes of one size, long prompts split, short ones put together",
        "schedulers.splitfuse",
    ),
    SchedulerInfo(
        "lightllm",
        "LightLLM",
        "Gong et al., Past-Future Scheduler for LLM Serving under SLA Guarantees, ASPLOS 2025",
        "admission by the peak of memory predicted from the lengths of finished requests",
        "schedulers.lightllm",
        whole_prompts=True,
    ),
    SchedulerInfo(
        "sglang",
        "SGLang",
        "Zheng et al., SGLang, NeurIPS 2024; python/sglang/srt/managers/schedule_policy.py",
        "longest cached prefix first, prompts before decodes, admission by a ratio that adapts",
        "schedulers.sglang",
        "scan",
        starves=True,
    ),
    SchedulerInfo(
        "tensorrt-llm-no-evict",
        "TensorRT-LLM, guaranteed no evict",
        "TensorRT-LLM, CapacitySchedulerPolicy and cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp",
        "in-flight batching that admits only what can run to its end without eviction",
        "schedulers.tensorrt_llm",
    ),
    SchedulerInfo(
        "tensorrt-llm-max-utilization",
        "TensorRT-LLM, maximum utilisation",
        "TensorRT-LLM, CapacitySchedulerPolicy and cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp",
        "in-flight batching that admits whatever fits now and pauses the latest when blocks run out",
        "schedulers.tensorrt_llm",
        variant=1,
    ),
    SchedulerInfo(
        "fastserve",
        "FastServe",
        "Wu et al., FastServe, NSDI 2026 (arXiv:2305.05920)",
        "skip-join multi-level feedback queue, preempting at every token by swapping",
        "schedulers.fastserve",
        "scan",
        swaps=True,
        may_swap=True,
        overlaps=True,
        starves=True,
    ),
    SchedulerInfo(
        "batchllm",
        "BatchLLM",
        "Zheng et al., BatchLLM, arXiv:2412.03594",
        "offline: groups that share a prefix, decode-heavy first, batches limited by memory alone",
        "schedulers.batchllm",
        "key",
        starves=True,
    ),
    SchedulerInfo(
        "fastswitch",
        "FastSwitch",
        "Shen et al., FastSwitch, arXiv:2411.18424",
        "priorities that change as it runs; swapping in block groups, overlapped, with reuse",
        "schedulers.fastswitch",
        "scan",
        swaps=True,
        may_swap=True,
        overlaps=True,
        starves=True,
    ),
    SchedulerInfo(
        "vtc",
        "Virtual Token Counter",
        "Sheng et al., Fairness in Serving Large Language Models, OSDI 2024",
        "fair queueing: the tenant that has had the least service is next",
        "schedulers.vtc",
        "scan",
    ),
    SchedulerInfo(
        "srpt",
        "shortest remaining processing time",
        "Schrage, Operations Research 1968; Shahout et al., TRAIL, ICLR 2025",
        "whoever needs the fewest steps to end runs, preempting the rest; knows true lengths",
        "schedulers.srpt",
        "scan",
        may_swap=True,
        starves=True,
    ),
    SchedulerInfo(
        "predicted",
        "shortest predicted output first",
        "Fu et al., Efficient LLM Scheduling by Learning to Rank, NeurIPS 2024",
        "vLLM with the waiting queue in the order of predicted output lengths",
        "vllm",
        "key",
        starves=True,
    ),
    SchedulerInfo(
        "edf",
        "earliest deadline first",
        "Liu and Layland, Scheduling Algorithms for Multiprogramming, Journal of the ACM 1973",
        "vLLM with the waiting queue in the order of deadlines for the first token",
        "vllm",
        "key",
    ),
    SchedulerInfo(
        "custom",
        "a policy of your own",
        "docs/background/schedulers.md",
        "composes like vllm and asks your functions for the waiting order, the victim, the chunk and admission",
        "schedulers.custom",
        "scan",
    ),
)

SCHEDULERS: dict[str, SchedulerInfo] = {info.name: info for info in _ALL}
"""Every scheduler by its name."""


def scheduler_info(name: str) -> SchedulerInfo:
    """The scheduler of this name.

    Raises:
        SpecError: there is none.
    """
    if name not in SCHEDULERS:
        names = tuple(SCHEDULERS)
        raise SpecError(
            Problem("unknown scheduler", "", "scheduler", repr(name), ", ".join(names), nearest(name, names))
        )
    return SCHEDULERS[name]
