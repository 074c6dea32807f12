"""What a scheduler is told before a run: its options, keys known in advance, room for what it remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.serving.grouping import prefix_groups
from windtunnel.serving.schedulers import SCHEDULERS
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import RequestTable

if TYPE_CHECKING:
    from windtunnel.serving.arrays import Arrays

RESERVATIONS = {"exact": 0, "power_of_two": 1, "max_model_len": 2}
RATIO_STEPS = 600
"""SGLang's `SGLANG_INIT_NEW_TOKEN_RATIO_DECAY_STEPS`: decode steps from the first ratio to the least."""
BLOCK_GROUP = 60
"""FastSwitch's initial block group (arXiv:2411.18424, section 4), the most that one of its copies moves here."""


def prepare(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    """Fill in what the settings' scheduler needs."""
    info = SCHEDULERS[settings.scheduler]
    options, world = settings.options, arrays.world
    if info.whole_prompts:
        world["chunked"] = 0
    if not world["ordered"][0]:
        arrays.requests["key"] = 0.0
    world["variant"] = info.variant
    world["reserve"] = RESERVATIONS[options.reservation]
    world["swaps"] = settings.swaps
    world["host_blocks"], world["swap_block_s"] = settings.host_blocks, settings.swap_block_s
    world["swap_call_s"] = options.swap_call_s
    world["swap_group"] = options.swap_group_blocks or (BLOCK_GROUP if info.name == "fastswitch" else 1)
    world["swap_overlap"] = options.swap_overlap == "on" or (options.swap_overlap == "auto" and info.overlaps)
    world["swap_reuse"] = options.swap_reuse == "on" or (options.swap_reuse == "auto" and info.name == "fastswitch")
    special = _PREPARATIONS.get(settings.scheduler)
    if special is not None:
        special(arrays, workload, surface, settings)


def _static(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    arrays.world["prefix"] = 0


def _predicted(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    """Predicted output lengths: the true ones times a log-normal error."""
    draw = np.random.default_rng(int(arrays.world["seed"][0]))
    error = draw.normal(0.0, settings.options.length_error, len(workload)) if settings.options.length_error else 0.0
    arrays.requests["key"] = arrays.requests["output"] * np.exp(error)


def _edf(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    """Deadlines from arrival as the table has it (a request that waits for another keeps its earliest)."""
    options = settings.options
    due_s = options.deadline_s + options.deadline_per_token_s * workload.prompt_tokens
    arrays.requests["key"] = workload.arrival_s + due_s


def _batchllm(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    arrays.requests["key"] = prefix_groups(workload)


def _vtc(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    known, number = np.unique(workload.tenant, return_inverse=True)
    arrays.requests["tenant"] = number
    arrays.world["input_weight"] = settings.options.fair_input_weight
    arrays.world["output_weight"] = settings.options.fair_output_weight
    arrays.book = np.zeros((len(arrays.replicas), 2 * max(len(known), 1) + 1))


def _lightllm(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    history = settings.options.history
    arrays.world["history"] = history
    arrays.book = np.zeros((len(arrays.replicas), 1 + 2 * history + 2 * (settings.max_num_seqs + 1)))


def _sglang(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    options = settings.options
    arrays.world["ratio_first"] = options.new_token_ratio
    arrays.world["ratio_least"] = min(options.least_new_token_ratio, options.new_token_ratio)
    arrays.world["ratio_steps"] = RATIO_STEPS


def _fastserve(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    options = settings.options
    prefill_s = alone_s(surface, np.minimum(workload.prompt_tokens, settings.max_num_batched_tokens))
    quantum_s = options.quantum_s or float(alone_s(surface, np.ones(1, dtype=np.int64))[0])
    arrays.world["levels"], arrays.world["quantum_s"] = options.queues, quantum_s
    arrays.world["starve_s"] = options.starvation_s
    levels = np.ceil(np.log2(np.maximum(prefill_s / quantum_s, 1.0))) if quantum_s > 0 else np.zeros(len(workload))
    arrays.requests["level"] = np.minimum(levels, options.queues - 1)
    arrays.book = np.zeros((len(arrays.replicas), max(2 * len(workload), 1)))


def _fastswitch(arrays: Arrays, workload: RequestTable, surface: StepSurface, settings: SchedulerSettings) -> None:
    arrays.world["update_steps"] = settings.options.priority_update_steps


def alone_s(surface: StepSurface, prompt_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Seconds of a step that holds one prompt and nothing else, per prompt length."""
    n = prompt_tokens.astype(np.float64)
    if surface.linear is not None:
        base_s, token_s, context_s = surface.linear
        return base_s + (token_s + context_s) * n
    pairs = n * (n + 1) / 2
    windowed = np.minimum(n, surface.window_tokens) if surface.window_tokens else np.zeros_like(n)
    window_pairs = windowed * (windowed + 1) / 2 + (n - windowed) * surface.window_tokens
    step_s, per_token_s, pair_s, window_s, read_s, prompt_s, key_s, window_key_s = surface.prefill_s
    prefill_s = step_s + prompt_s + per_token_s * n + pair_s * pairs + window_s * window_pairs + (read_s + key_s) * n
    prefill_s += window_key_s * window_pairs / np.maximum(n, 1.0)
    host_s = surface.host_s + surface.host_request_s
    answer: npt.NDArray[np.float64] = host_s + surface.token_s[prompt_tokens] + surface.sample_s[1] + prefill_s
    return answer


_PREPARATIONS: dict[str, Callable[..., Any]] = {
    "static": _static,
    "predicted": _predicted,
    "edf": _edf,
    "batchllm": _batchllm,
    "vtc": _vtc,
    "lightllm": _lightllm,
    "sglang": _sglang,
    "fastserve": _fastserve,
    "fastswitch": _fastswitch,
}
