"""Builds the kernel's arrays from a workload, a step surface and settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.errors import Problem, SpecError
from windtunnel.serving import state
from windtunnel.serving.adapters import residency
from windtunnel.serving.adapters.assignment import adapters_of, apart
from windtunnel.serving.adapters.tables import append_adapters
from windtunnel.serving.draft_tables import append_drafting
from windtunnel.serving.drafting import make_book, write_drafting
from windtunnel.serving.eviction import KINDS
from windtunnel.serving.foresight import foresee
from windtunnel.serving.jit import rows
from windtunnel.serving.preparation import prepare
from windtunnel.serving.routing import ROUTERS
from windtunnel.serving.schedulers import SCHEDULERS
from windtunnel.serving.settings import EVICTIONS, SchedulerSettings
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, RequestTable

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Arrays:
    """The arguments of `loop.run_loop`, in its order."""

    world: Array
    requests: Array
    replicas: Array
    slots: Array
    phase: Array
    blocks: Array
    cells: Array
    segments: Array
    token_cost: Array
    sample_cost: Array
    decode_cost: Array
    stages: Array
    batches: Array
    entries: Array
    log: Array
    steps: Array
    series: Array
    book: Array

    def arguments(self, compiled: bool) -> tuple[Any, ...]:
        """The arrays as the kernel wants them."""
        return tuple(rows(getattr(self, name), not compiled) for name in self.__slots__)


def known(name: str, names: tuple[str, ...], what: str) -> int:
    """The number of a named choice."""
    if name not in names:
        raise SpecError(Problem(f"unknown {what}", path=what, got=repr(name), allowed=", ".join(names)))
    return names.index(name)


def build(
    workload: RequestTable, surface: StepSurface, settings: SchedulerSettings, replicas: int, router: str, seed: int
) -> Arrays:
    """The arrays of a run that has not begun."""
    adapters = None if settings.lora is None else adapters_of(workload, settings.lora, seed)
    if adapters is not None:
        workload = apart(workload, adapters)
    slots = min(settings.max_num_seqs, max(len(workload), 1)) + 1
    stages = len(surface.stage_share)
    blocks, cells, mask = _cache_arrays(workload, settings, replicas, slots)
    token_cost, sample_cost, decode_cost = _cost_tables(surface, settings)
    world = _world(surface, settings)
    if settings.drafting is not None and surface.linear is None:
        if surface.drafting is None:
            raise SpecError("the step surface is of steps without drafts, the settings have speculative tokens")
        token_cost, sample_cost, decode_cost = append_drafting(
            world, surface.drafting, token_cost, sample_cost, decode_cost
        )
    if settings.lora is not None:
        token_cost = append_adapters(world, settings.lora, surface, token_cost)
        if stages > 1:
            raise SpecError("LoRA adapters are modelled for one pipeline stage")
    world["replicas"], world["seed"], world["hash_mask"] = replicas, seed, mask
    world["router"] = known(router, ROUTERS, "router")
    requests = _requests(workload, settings)
    if adapters is not None:
        requests["adapter"] = adapters
    world["dynamic"] = int(np.any(workload.after != AT_ARRIVAL))
    any_rows = np.flatnonzero(workload.after == AFTER_ANY)
    requests["any_row"][: len(any_rows)] = any_rows
    world["any_rows"] = len(any_rows)
    if settings.ahead and stages > 1:
        raise SpecError("asynchronous scheduling and speculative tokens are modelled for one pipeline stage")
    if settings.ahead:
        world["queued"], world["depth"] = 1, 2 if settings.async_scheduling else 1
    world["asynchronous"] = settings.async_scheduling
    # A loop that composes ahead itself holds nobody back; stages have other steps under way anyhow.
    world["overlap"] = settings.overlap_scheduling and not settings.async_scheduling and stages == 1
    write_drafting(world, settings.drafting)
    deep = int(world["depth"][0])
    arrays = Arrays(
        world=world,
        requests=requests,
        replicas=_replicas(settings, replicas, slots),
        slots=_slots(replicas, slots, state.AHEAD_SLOT if settings.ahead else state.SLOT),
        phase=np.zeros((replicas, settings.block_size), dtype=np.int32),
        blocks=blocks,
        cells=cells,
        segments=_segments(workload, settings, requests),
        token_cost=token_cost,
        sample_cost=sample_cost,
        decode_cost=decode_cost,
        stages=_stages(surface, replicas),
        batches=np.zeros((replicas, deep), dtype=state.BATCH),
        entries=np.zeros(
            (replicas, deep, slots if world["queued"][0] else 1),
            dtype=state.AHEAD_ENTRY if settings.ahead else state.ENTRY,
        ),
        log=np.zeros((2, 0), dtype=state.ENTRY_LOG),
        steps=np.zeros(0, dtype=state.STEP_LOG),
        series=np.zeros(0, dtype=state.SAMPLE_LOG),
        book=np.tile(_book(settings), (replicas, 1)),
    )
    prepare(arrays, workload, surface, settings)
    if settings.evicting:
        world["eviction"] = EVICTIONS.index(settings.eviction)
        plain = arrays.segments
        arrays.segments = np.zeros(len(plain), dtype=state.FORESEEN_SEGMENT)
        arrays.segments["content"], arrays.segments["tokens"] = plain["content"], plain["tokens"]
        if settings.eviction == "belady":
            arrays.segments = foresee(world, requests, arrays.segments, settings.block_size)
    return arrays


def _book(settings: SchedulerSettings) -> Array:
    """What a replica's scheduler remembers, before the first step (`preparation.py` makes that of others)."""
    if settings.lora is not None:
        return residency.make_book(settings.lora)
    return make_book(settings.drafting, settings.max_num_seqs) if settings.ahead else np.zeros(1)


def _request_dtype(settings: SchedulerSettings) -> np.dtype[Any]:
    if settings.lora is not None:
        return state.ADAPTED_REQUEST
    return state.AHEAD_REQUEST if settings.ahead else state.REQUEST


def _world(surface: StepSurface, settings: SchedulerSettings) -> Array:
    world = np.zeros(1, dtype=state.WORLD)
    for name in ("max_num_seqs", "max_model_len", "block_size", "watermark_blocks"):
        world[name] = getattr(settings, name)
    world["budget"] = settings.max_num_batched_tokens
    for name in ("full_groups", "window_groups", "kv_window"):
        world[name] = getattr(settings, name)
    world["chunked"] = settings.enable_chunked_prefill
    world["prefix"] = settings.enable_prefix_caching
    queue = SCHEDULERS[settings.scheduler].queue
    world["ordered"] = queue == "key" or (queue == "policy" and settings.policy == "priority")
    world["threshold"] = settings.long_prefill_token_threshold
    world["usable_blocks"] = settings.num_blocks - 1
    world["stages"] = world["depth"] = len(surface.stage_share)
    world["queued"] = len(surface.stage_share) > 1
    if surface.linear is not None:
        world["linear"] = 1
        world["base_s"], world["per_token_s"], world["per_context_s"] = surface.linear
    world["host_s"], world["host_request_s"] = surface.host_s, surface.host_request_s
    for k, part in enumerate(("step", "token", "pair", "window", "read", "prompt", "key", "window_key")):
        world[f"prefill_{part}_s"] = surface.prefill_s[k]
        world[f"prefill_{part}_j"] = surface.prefill_j[k]
    world["decode_request_j"], world["decode_context_j"], world["decode_window_j"] = surface.decode_j
    world["window"] = surface.window_tokens
    world["mixed"] = surface.decode_mixed_s.size > 0
    world["deadline_s"] = world["next_sample_s"] = math.inf
    world["max_waiting"] = np.iinfo(np.int64).max
    return world


def _cost_tables(surface: StepSurface, settings: SchedulerSettings) -> tuple[Array, Array, Array]:
    token = np.zeros(len(surface.token_s) or 1, dtype=state.TOKEN_COST)
    sample = np.zeros(len(surface.sample_s) or 1, dtype=state.SAMPLE_COST)
    shape = surface.decode_s.shape if surface.decode_s.size else (1, 2)
    decode = np.zeros(shape, dtype=state.DECODE_COST)
    if surface.linear is not None:
        if len(surface.stage_share) > 1:
            raise SpecError("a linear step cost has one pipeline stage")
        return token, sample, decode
    if surface.max_tokens < settings.max_num_batched_tokens or surface.max_requests < settings.max_num_seqs:
        raise SpecError(
            f"the step surface covers {surface.max_tokens} tokens and {surface.max_requests} requests, the settings "
            f"allow {settings.max_num_batched_tokens} and {settings.max_num_seqs}"
        )
    token["body_s"], token["body_j"] = surface.token_s, surface.token_j
    if len(surface.hop_s):
        token["hop_s"] = surface.hop_s
    sample["head_s"], sample["head_j"] = surface.sample_s, surface.sample_j
    decode["full_s"] = surface.decode_s
    if surface.decode_mixed_s.size:
        decode["mixed_s"], decode["mixed_token_s"] = surface.decode_mixed_s, surface.decode_mixed_token_s
    if surface.decode_window_s.size:
        decode["window_s"] = surface.decode_window_s
    return token, sample, decode


def _requests(workload: RequestTable, settings: SchedulerSettings) -> Array:
    n = len(workload)
    requests = np.zeros(n, dtype=_request_dtype(settings))
    for name in ("arrival_s", "delay_s", "after"):
        requests[name] = getattr(workload, name)
    requests["prompt"] = workload.prompt_tokens
    total = workload.prompt_tokens + workload.output_tokens
    longest = np.minimum(total, settings.max_model_len)
    requests["output"] = longest - workload.prompt_tokens
    fits = (workload.prompt_tokens < settings.max_model_len) & (
        settings.blocks_for(np.minimum(longest - 1 + settings.spare_tokens, settings.max_model_len))
        <= settings.num_blocks - 1
    )
    if settings.over_length == "reject":
        fits &= total <= settings.max_model_len
    requests["fits"] = fits
    requests["key"] = requests["priority"] = workload.priority
    requests["tenant"] = workload.tenant
    requests["tie"] = np.arange(n)
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        requests[name] = np.nan
    for name in ("replica", "next", "child", "first_successor", "next_successor"):
        requests[name] = -1
    _link_successors(workload, requests)
    return requests


def _link_successors(workload: RequestTable, requests: Array) -> None:
    """Thread the rows that wait for the same row into a list, in order of row."""
    waiting = np.flatnonzero(workload.after >= 0)
    if len(waiting) == 0:
        return
    parent = workload.after[waiting]
    order = np.lexsort((waiting, parent))
    waiting, parent = waiting[order], parent[order]
    first = np.append(True, parent[1:] != parent[:-1])
    requests["first_successor"][parent[first]] = waiting[first]
    same = ~first[1:]
    requests["next_successor"][waiting[:-1][same]] = waiting[1:][same]


def _segments(workload: RequestTable, settings: SchedulerSettings, requests: Array) -> Array:
    """What prompts consist of; without a description every prompt is content of its own."""
    n = len(workload)
    if not settings.enable_prefix_caching:
        return np.zeros(1, dtype=state.SEGMENT)
    if workload.shares_prefixes:
        segments = np.zeros(max(len(workload.segment_id), 1), dtype=state.SEGMENT)
        segments["content"][: len(workload.segment_id)] = workload.segment_id
        segments["tokens"][: len(workload.segment_id)] = workload.segment_tokens
        requests["segment"] = workload.segment_offset[:-1]
        requests["segment_end"] = workload.segment_offset[1:]
    else:
        segments = np.zeros(max(n, 1), dtype=state.SEGMENT)
        segments["content"][:n] = -1 - np.arange(n)
        segments["tokens"][:n] = workload.prompt_tokens
        requests["segment"] = np.arange(n)
        requests["segment_end"] = np.arange(n) + 1
    requests["output_id"] = workload.output_id if len(workload.output_id) else -1 - n - np.arange(n)
    return segments


def _cache_arrays(
    workload: RequestTable, settings: SchedulerSettings, replicas: int, slots: int
) -> tuple[Array, Array, int]:
    """Blocks with their table, and the cells of running requests; one of each when not needed."""
    if not settings.enable_prefix_caching:
        return np.zeros((replicas, 1), dtype=state.BLOCK), np.zeros((replicas, 1, 1), dtype=state.CELL), 0
    count = settings.num_blocks
    size = max(1 << (2 * count - 1).bit_length(), KINDS)
    blocks = np.zeros((replicas, size), dtype=state.EVICTED_BLOCK if settings.evicting else state.BLOCK)
    ids = np.arange(count, dtype=np.int32)
    blocks["next"][:, :count] = np.roll(ids, -1)
    blocks["prev"][:, :count] = np.roll(ids, 1)
    longest = int(np.max(workload.prompt_tokens + workload.output_tokens, initial=1))
    longest = min(longest + settings.spare_tokens, settings.max_model_len)
    cells = np.empty((replicas, slots, min(longest // settings.block_size + 1, count)), dtype=state.CELL)
    return blocks, cells, size - 1


def _replicas(settings: SchedulerSettings, replicas: int, slots: int) -> Array:
    table = np.zeros(replicas, dtype=state.REPLICA)
    table["free_blocks"] = table["min_free"] = settings.num_blocks - 1
    table["free_rows"] = slots - 1
    table["head_row"] = 0
    for name in ("head", "tail", "head_request", "blocked", "finished"):
        table[name] = -1
    table["next_finish"] = table["next_saturation"] = state.NEVER
    return table


def _slots(replicas: int, slots: int, dtype: np.dtype[Any]) -> Array:
    """Slot 0 is prepared for the head of the queue; the others are free, 1 on top."""
    table = np.zeros((replicas, slots), dtype=dtype)
    table["free_row"][:, : slots - 1] = np.arange(slots - 1, 0, -1)
    table["request"] = -1
    return table


def _stages(surface: StepSurface, replicas: int) -> Array:
    stages = np.zeros((replicas, len(surface.stage_share)), dtype=state.STAGE)
    stages["share"] = surface.stage_share
    return stages
