"""Seconds and joules of a step from the sums over its batch (see `cost.surface.StepSurface`)."""

from __future__ import annotations

import math
from typing import Any

from windtunnel.serving.jit import inlined


@inlined
def decode_seconds(decode_cost: Any, requests: int, context: int, window: int, windowed: int) -> float:
    """Decode attention of a batch, interpolated in the mean context per request.

    Column c >= 1 of the table stands for 2**o * (1 + j / 8) tokens with o = 4 + (c - 1) // 8 and
    j = (c - 1) % 8, column 0 for none. A context beyond the table follows its last piece.

    Args:
        decode_cost: table over (requests, column), seconds.
        requests: decoding requests.
        context: sum of their contexts, tokens.
        window: the sliding window, 0 when the model has none.
        windowed: sum of their contexts cut at the window, tokens.
    """
    column, part = grid_place(context / requests, decode_cost.shape[1])
    low, high = decode_cost[requests, column].full_s, decode_cost[requests, column + 1].full_s
    seconds = low + (high - low) * part
    if window > 0:
        column, part = grid_place(windowed / requests, decode_cost.shape[1])
        low, high = decode_cost[requests, column].window_s, decode_cost[requests, column + 1].window_s
        seconds += low + (high - low) * part
    return float(seconds)


@inlined
def beside_prompt_seconds(decode_cost: Any, requests: int, context: int, prefill_tokens: int) -> float:
    """What the decoding requests of a step add to the attention of its prompts, where that was measured.

    Args:
        decode_cost: as in `decode_seconds`.
        requests: decoding requests.
        context: sum of their contexts, tokens.
        prefill_tokens: prompt tokens in the step.
    """
    column, part = grid_place(context / requests, decode_cost.shape[1])
    low, high = decode_cost[requests, column], decode_cost[requests, column + 1]
    seconds = low.mixed_s + (high.mixed_s - low.mixed_s) * part
    per_token = low.mixed_token_s + (high.mixed_token_s - low.mixed_token_s) * part
    return float(seconds + per_token * prefill_tokens)


@inlined
def grid_place(mean: float, columns: int) -> tuple[int, float]:
    """The column at or below a mean context, and how far towards the next one it lies."""
    if mean < 16.0:
        return 0, mean / 16.0
    mantissa, exponent = math.frexp(mean)
    eighths = mantissa * 16.0 - 8.0
    j = int(eighths)
    column = 1 + (exponent - 5) * 8 + j
    if column <= columns - 2:
        return column, eighths - j
    octave, j = divmod(columns - 3, 8)
    return columns - 2, math.ldexp(mean, -(octave + 4)) * 8.0 - 8.0 - j


@inlined
def prompts_of(replica: Any) -> int:
    """Requests of a step with prompt tokens that compute a chunk of them, at least one."""
    return int(max(replica.step_requests - replica.step_decodes, 1))


@inlined
def body_seconds(world: Any, replica: Any, token_cost: Any, decode_cost: Any) -> float:
    """Everything of a step but its head, transfers and host overhead, all stages together."""
    seconds = token_cost[replica.step_tokens].body_s
    if replica.step_decodes > 0:
        if world.mixed and replica.step_prefill_tokens > 0:
            seconds += beside_prompt_seconds(
                decode_cost, replica.step_decodes, replica.step_context, replica.step_prefill_tokens
            )
        else:
            seconds += decode_seconds(
                decode_cost, replica.step_decodes, replica.step_context, world.window, replica.step_window
            )
    if replica.step_prefill_tokens > 0:
        seconds += (
            world.prefill_step_s
            + world.prefill_token_s * replica.step_prefill_tokens
            + world.prefill_pair_s * replica.step_pairs
            + world.prefill_window_s * replica.step_window_pairs
            + world.prefill_read_s * replica.step_read
            + world.prefill_prompt_s * prompts_of(replica)
            + world.prefill_key_s * replica.step_read / prompts_of(replica)
            + world.prefill_window_key_s * replica.step_window_pairs / replica.step_prefill_tokens
        )
    return float(seconds)


@inlined
def step_joules(world: Any, replica: Any, token_cost: Any, sample_cost: Any) -> float:
    """Dynamic energy of a step."""
    joules = (
        token_cost[replica.step_tokens].body_j
        + sample_cost[replica.step_sampled].head_j
        + world.decode_request_j * replica.step_decodes
        + world.decode_context_j * replica.step_context
        + world.decode_window_j * replica.step_window
    )
    if replica.step_prefill_tokens > 0:
        joules += (
            world.prefill_step_j
            + world.prefill_token_j * replica.step_prefill_tokens
            + world.prefill_pair_j * replica.step_pairs
            + world.prefill_window_j * replica.step_window_pairs
            + world.prefill_read_j * replica.step_read
            + world.prefill_prompt_j * prompts_of(replica)
            + world.prefill_key_j * replica.step_read / prompts_of(replica)
            + world.prefill_window_key_j * replica.step_window_pairs / replica.step_prefill_tokens
        )
    return float(joules)
