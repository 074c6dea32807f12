"""When a step that was composed ahead, or that drafts tokens, ends.

Stands in the place of `serving/timing.py`. A step composed ahead starts when the one before has
ended; the host's work for it is done by then unless that step was shorter. Drafting follows in
the same step: the first pass of the draft model reads everything the target has read, each
further one a token per request. A drafter that works beside the target hides the shorter of both.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined, njit
from windtunnel.serving.price import body_seconds, decode_seconds, prompts_of, step_joules


@inlined
def _passes(world: Any, replica: Any) -> int:
    """Serial passes of the drafter; one that works beside the target drafts the token that is checked, too."""
    return int(min(world.draft_passes, replica.step_drafts + world.draft_beside))


@njit
def drafting_seconds(world: Any, replica: Any, token_cost: Any, sample_cost: Any, decode_cost: Any) -> float:
    """Time of drafting `step_drafts` tokens for every request that sampled (see `cost.surface.DraftSurface`)."""
    drafting = replica.step_drafters
    if replica.step_drafts == 0:
        return 0.0
    seconds = world.draft_step_s if drafting > 0 else 0.0
    if world.draft_passes == 0:
        return float(seconds)
    rows = drafting * replica.step_drafts if world.draft_one_pass else drafting
    seconds += sample_cost[world.draft_head_row + rows].head_s
    if not world.draft_model:
        return float(seconds)
    tokens = replica.step_tokens + (rows - drafting)
    seconds += token_cost[world.draft_token_row + tokens].body_s
    if replica.step_decodes > 0:
        seconds += decode_seconds(
            decode_cost[world.draft_decode_row :], replica.step_decodes, replica.step_context, 0, 0
        )
    if replica.step_prefill_tokens > 0:
        seconds += (
            world.draft_prefill_step_s
            + world.draft_prefill_token_s * replica.step_prefill_tokens
            + world.draft_prefill_pair_s * replica.step_pairs
            + world.draft_prefill_read_s * replica.step_read
            + world.draft_prefill_prompt_s * prompts_of(replica)
            + world.draft_prefill_key_s * replica.step_read / prompts_of(replica)
        )
    further = _passes(world, replica) - 1
    if drafting > 0 and further > 0:
        one = sample_cost[world.draft_further_row + drafting].head_s
        one += decode_seconds(
            decode_cost[world.draft_further_decode_row :], drafting, replica.step_drafters_context, 0, 0
        )
        seconds += further * one
    return float(seconds)


@njit
def drafting_joules(world: Any, replica: Any, token_cost: Any, sample_cost: Any) -> float:
    """Dynamic energy of the same passes."""
    drafting = replica.step_drafters
    if replica.step_drafts == 0 or world.draft_passes == 0:
        return 0.0
    rows = drafting * replica.step_drafts if world.draft_one_pass else drafting
    joules = sample_cost[world.draft_head_row + rows].head_j
    if not world.draft_model:
        return float(joules)
    joules += token_cost[world.draft_token_row + replica.step_tokens + (rows - drafting)].body_j
    joules += world.draft_decode_request_j * replica.step_decodes
    joules += world.draft_decode_context_j * replica.step_context
    if replica.step_prefill_tokens > 0:
        joules += (
            world.draft_prefill_step_j
            + world.draft_prefill_token_j * replica.step_prefill_tokens
            + world.draft_prefill_pair_j * replica.step_pairs
            + world.draft_prefill_read_j * replica.step_read
            + world.draft_prefill_prompt_j * prompts_of(replica)
            + world.draft_prefill_key_j * replica.step_read / prompts_of(replica)
        )
    one = sample_cost[world.draft_further_row + drafting].head_j + world.draft_decode_request_j * drafting
    one += world.draft_decode_context_j * replica.step_drafters_context
    return float(joules + max(_passes(world, replica) - 1, 0) * one)


@inlined
def time_step(
    world: Any, replica: Any, token_cost: Any, sample_cost: Any, decode_cost: Any, stages: Any, now_s: float
) -> float:
    """When the composed step ends; counts its time and energy."""
    begin = max(now_s, stages[0].free_s)
    if world.linear:
        seconds = 0.0
        if replica.step_tokens > 0 or not world.asynchronous:
            seconds = world.base_s + world.per_token_s * replica.step_tokens
            seconds += world.per_context_s * replica.step_computed
        stages[0].free_s = begin + seconds
        replica.busy_s += seconds
        return float(begin + seconds)
    host = world.host_s + world.host_request_s * replica.step_requests
    seconds = 0.0
    if replica.step_tokens > 0:
        body = body_seconds(world, replica, token_cost, decode_cost)
        seconds = (0.0 if world.asynchronous else host) + body + sample_cost[replica.step_sampled].head_s
        drafting = drafting_seconds(world, replica, token_cost, sample_cost, decode_cost)
        seconds = max(seconds, drafting) if world.draft_beside else seconds + drafting
        replica.dynamic_j += step_joules(world, replica, token_cost, sample_cost)
        replica.dynamic_j += drafting_joules(world, replica, token_cost, sample_cost)
        replica.drafting_s += drafting
    if world.asynchronous:
        begin = max(begin, now_s + host)
    elif replica.step_tokens == 0:
        seconds = host
    stages[0].free_s = begin + seconds
    replica.busy_s += seconds
    return float(begin + seconds)
