"""The settings of a replica's scheduler, named as vLLM names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from windtunnel.errors import Problem, SpecError
from windtunnel.serving.drafting import Drafting, drafting_problems
from windtunnel.serving.schedulers import SCHEDULERS, SchedulerInfo, scheduler_info
from windtunnel.specs.lora import LoraSpec
from windtunnel.specs.scheduler import SchedulerOptions

Ints = npt.NDArray[np.int64]
Policy = Literal["fcfs", "priority"]
Eviction = Literal["lru", "lfu", "belady", "learned"]
OverLength = Literal["reject", "truncate"]

EVICTIONS: tuple[Eviction, ...] = ("lru", "lfu", "belady", "learned")
"""Orders in which cached blocks are evicted; the place is the number that the kernel knows."""


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How one replica schedules.

    Attributes:
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: most tokens in one step (the token budget).
        max_model_len: most tokens of one request, prompt and output together.
        num_blocks: KV blocks of the replica. One is the engine's null block and never usable.
        block_size: tokens of one KV block.
        enable_chunked_prefill: whether a prompt may be spread over several steps.
        enable_prefix_caching: whether full blocks of equal content are shared.
        window_groups, full_groups, kv_window: groups of layers with a block table of their own, those that
            keep a sliding window of `kv_window` tokens and those that keep everything; `num_blocks`
            counts blocks of one group. Without windowed groups all layers share one table.
        eviction: which cached blocks make room: `lru` (as vLLM), `lfu`, `belady` (the oracle that knows
            the workload) or `learned` (see `windtunnel.serving.eviction`).
        policy: `fcfs`, or `priority` (smaller value first, then arrival).
        long_prefill_token_threshold: most prompt tokens of one request in one step while
            others are present; 0 for no limit.
        watermark: fraction of the blocks kept free when a request is admitted beside others.
        over_length: what happens to a request whose prompt and output together exceed
            max_model_len: `reject` it at arrival, or `truncate` its output as the engine does.
        scheduler: name of the scheduler (see `windtunnel.serving.schedulers`).
        options: what only some schedulers ask for.
        host_blocks: KV blocks that host memory holds for swapping.
        swap_block_s: time to move one block between device and host, seconds.
        async_scheduling: whether a step is composed while the one before is under way (vLLM).
        overlap_scheduling: whether what arrives during a step misses the next one too, as with engines that compose
            steps ahead (`loop.py`); any scheduler. Of no effect with `async_scheduling`, whose loop composes ahead.
        drafting: speculative tokens (vLLM); None for none.
        lora: LoRA adapters (vLLM); None for none.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_blocks: int
    block_size: int = 16
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = False
    policy: Policy = "fcfs"
    long_prefill_token_threshold: int = 0
    watermark: float = 0.0
    over_length: OverLength = "reject"
    scheduler: str = "vllm"
    options: SchedulerOptions = field(default_factory=SchedulerOptions)
    host_blocks: int = 0
    swap_block_s: float = 0.0
    eviction: Eviction = "lru"
    window_groups: int = 0
    full_groups: int = 1
    kv_window: int = 0
    async_scheduling: bool = False
    overlap_scheduling: bool = False
    drafting: Drafting | None = None
    lora: LoraSpec | None = None

    def __post_init__(self) -> None:
        problems = settings_problems(self)
        if problems:
            raise SpecError(problems)

    @property
    def ahead(self) -> bool:
        """Whether steps are composed ahead of known tokens or with drafts (`windtunnel.serving.ahead`)."""
        return self.async_scheduling or self.drafting is not None

    @property
    def spare_tokens(self) -> int:
        """Tokens beyond a request's own for which it may hold KV blocks at its end."""
        return self.drafting.spare_tokens if self.drafting is not None else 0

    def blocks_for(self, tokens: Ints) -> Ints:
        """KV blocks that must be there for requests of so many computed tokens to fit at all."""
        total: Ints = -(-tokens // self.block_size)
        if not self.window_groups:
            return total
        most = -(-(self.kv_window - 1 + self.max_num_batched_tokens) // self.block_size) + 1
        held: Ints = self.full_groups * total + self.window_groups * np.minimum(total, most)
        return held

    @property
    def evicting(self) -> bool:
        """Whether the prefix cache evicts in another order than least recently used."""
        return self.enable_prefix_caching and self.eviction != "lru"

    @property
    def swaps(self) -> bool:
        """Whether preempted requests are swapped to the host."""
        if self.options.preemption == "auto":
            return SCHEDULERS[self.scheduler].swaps
        return self.options.preemption == "swap"

    @property
    def watermark_blocks(self) -> int:
        """Blocks kept free when a request is admitted beside others."""
        return int(self.watermark * self.num_blocks)


def settings_problems(settings: SchedulerSettings) -> list[Problem]:
    """What the engine would refuse in these settings."""
    info = scheduler_info(settings.scheduler)
    problems = [
        Problem("must be at least 1", path=name, got=str(getattr(settings, name)))
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size")
        if getattr(settings, name) < 1
    ]
    if settings.num_blocks < 2:
        problems.append(
            Problem("must be at least 2, as one block is never usable", path="num_blocks", got=str(settings.num_blocks))
        )
    if settings.policy not in ("fcfs", "priority"):
        problems.append(Problem("unknown policy", path="policy", got=repr(settings.policy), allowed="fcfs, priority"))
    if not 0.0 <= settings.watermark < 1.0:
        problems.append(Problem("must be in [0, 1)", path="watermark", got=str(settings.watermark)))
    if not 0 <= settings.long_prefill_token_threshold <= max(settings.max_model_len, 0):
        problems.append(
            Problem(
                "must be between 0 and max_model_len",
                path="long_prefill_token_threshold",
                got=str(settings.long_prefill_token_threshold),
            )
        )
    if 1 <= settings.max_num_batched_tokens < settings.max_num_seqs:
        problems.append(
            Problem(
                f"must be at least max_num_seqs ({settings.max_num_seqs})",
                path="max_num_batched_tokens",
                got=str(settings.max_num_batched_tokens),
            )
        )
    chunked = settings.enable_chunked_prefill and not info.whole_prompts
    if not chunked and 1 <= settings.max_num_batched_tokens < settings.max_model_len:
        problems.append(
            Problem(
                f"must be at least max_model_len ({settings.max_model_len}) without chunked prefill",
                path="max_num_batched_tokens",
                got=str(settings.max_num_batched_tokens),
            )
        )
    if settings.ahead and settings.scheduler != "vllm":
        text = "is without asynchronous scheduling and drafts"
        problems.append(Problem(text, path="scheduler", got=repr(settings.scheduler), allowed="'vllm'"))
    if settings.lora is not None:
        if settings.scheduler != "vllm":
            text = "is without LoRA adapters"
            problems.append(Problem(text, path="scheduler", got=repr(settings.scheduler), allowed="'vllm'"))
        if settings.ahead:
            problems.append(Problem("LoRA adapters are modelled with synchronous steps without drafts", path="lora"))
    if settings.drafting is not None:
        budget, threshold = settings.max_num_batched_tokens, settings.long_prefill_token_threshold
        problems += drafting_problems(settings.drafting, budget, threshold)
    return problems + _scheduler_problems(settings, info)


def _scheduler_problems(settings: SchedulerSettings, info: SchedulerInfo) -> list[Problem]:
    """Settings that this scheduler does not have."""
    problems = []
    name = settings.scheduler
    if settings.policy != "fcfs" and info.queue != "policy":
        problems.append(Problem(f"{name} has an order of its own", path="policy", got=repr(settings.policy)))
    if settings.options.preemption == "swap" and not info.may_swap:
        allowed = ", ".join(sorted(each.name for each in SCHEDULERS.values() if each.may_swap))
        problems.append(Problem("the scheduler does not swap", path="options.preemption", got=name, allowed=allowed))
    elif settings.swaps and settings.host_blocks < 1:
        problems.append(
            Problem(
                f"must be at least 1 as {name} swaps (or set options.preemption to recompute)",
                path="host_blocks",
                got=str(settings.host_blocks),
            )
        )
    if settings.eviction not in EVICTIONS:
        allowed = ", ".join(EVICTIONS)
        problems.append(Problem("unknown eviction", path="eviction", got=repr(settings.eviction), allowed=allowed))
    if settings.window_groups:
        problems += _window_problems(settings)
    if settings.swap_block_s < 0:
        problems.append(Problem("must not be negative", path="swap_block_s", got=str(settings.swap_block_s)))
    return problems


def _window_problems(settings: SchedulerSettings) -> list[Problem]:
    """What groups of sliding-window layers cannot be combined with."""
    problems = [
        Problem(f"must be at least {least} with groups of windowed layers", path=name, got=str(getattr(settings, name)))
        for name, least in (("window_groups", 1), ("full_groups", 0), ("kv_window", 1))
        if getattr(settings, name) < least
    ]
    if settings.enable_prefix_caching:
        problems.append(Problem("is modelled without groups of windowed layers", path="enable_prefix_caching"))
    if settings.ahead:
        text = "asynchronous scheduling and drafts are modelled without groups of windowed layers"
        problems.append(Problem(text, path="window_groups"))
    return problems


@dataclass(frozen=True, slots=True)
class HookAddresses:
    """Functions of the user's own, by address (see `hooks.py` for their signature); 0 where there is none.

    `order`, `victim`, `chunk` and `admit` are asked by the scheduler `custom`, `route` by the router `custom`.
    """

    order: int = 0
    victim: int = 0
    chunk: int = 0
    admit: int = 0
    route: int = 0
