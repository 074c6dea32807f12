"""An engine's steps as a load's token times show them: what each held, and how long it took.

All tokens of a step reach the client together. The time from one step's tokens to the next is therefore the length of
a step, and whose tokens came says what it held. A load of a minute shows thousands of steps, each with its own batch:
far more than its requests' latencies tell, and a disturbance of the machine spoils the steps that it falls on, not
every request behind them in the queue.

Only steps of which it is certain what they held are used: none in which a prompt may have been computed in part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface, context_grid
from windtunnel.live.measurement import Floats, Ints, Measurement
from windtunnel.search.evaluate import overlaps
from windtunnel.specs.deployment import DeploymentSpec

CACHED = 0.01
"""Share of the prompts' tokens found in the engine's cache from which steps are not read: what they computed is not
known then."""
Mask = npt.NDArray[np.bool_]

APART = 0.25
"""Tokens farther apart than this share of a short step (10th percentile of the gaps within requests) are of two steps:
those of one are written within a fraction of a millisecond."""
AGREE = 0.5
"""Of the steps of several requests at least so many must be followed by one that holds them all. Otherwise tokens do
not come by steps: several engines answer, or something on the way evens them out."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Tokens in order of time.

    Attributes:
        request, index: whose token it is, and the how manieth.
        step: the step that it came from, counted from 0.
        start_s: per step, when its first token came.
    """

    request: Ints
    index: Ints
    step: Ints
    start_s: Floats


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps as columns.

    Attributes:
        end_s: when its tokens came, on the measurement's clock.
        seconds: from the tokens of the step before to its own.
        decodes, context_tokens: requests that got a further token, and the sum of their contexts.
        prompts, prompt_tokens, pairs: requests that got their first, the tokens of their prompts, and the query-key
            pairs of these.
    """

    end_s: Floats
    seconds: Floats
    decodes: Ints
    context_tokens: Floats
    prompts: Ints
    prompt_tokens: Floats
    pairs: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    def only(self, chosen: Mask) -> Steps:
        """Some of the steps."""
        return Steps(*(getattr(self, name)[chosen] for name in self.__slots__))


def shows_steps(deployment: DeploymentSpec) -> bool:
    """Whether token times tell an engine's steps: one engine, one token a step, each step on its own."""
    engine, plan = deployment.engine, deployment.plan
    alone = plan.replicas == 1 and plan.pipeline_parallel == 1 and plan.attention_data_parallel == 1
    plain = engine.speculative is None and engine.lora is None and engine.depth is None
    ahead = engine.async_scheduling or overlaps(deployment)
    return alone and plain and not ahead and not deployment.model.window_layers


def observed_steps(measured: Measurement, deployment: DeploymentSpec) -> Steps:
    """The steps of a measurement whose batch is certain, in order of time."""
    seen = clusters(measured)
    request, index, count = seen.request, seen.index, max(len(seen.start_s), 1)
    prompt = np.where(measured.prompt_reported > 0, measured.prompt_reported, measured.prompt_tokens)
    first = index == 0

    def summed(values: npt.NDArray[np.generic]) -> Floats:
        weights = np.asarray(values, dtype=np.float64)
        return np.asarray(np.bincount(seen.step, weights=weights, minlength=count), np.float64)

    tokens = np.where(first, prompt[request], 0)
    found = Steps(
        end_s=seen.start_s[1:],
        seconds=np.diff(seen.start_s),
        decodes=summed(~first)[1:].astype(np.int64),
        context_tokens=summed(np.where(first, 0, prompt[request] + index))[1:],
        prompts=summed(first)[1:].astype(np.int64),
        prompt_tokens=summed(tokens)[1:],
        pairs=summed(tokens * (tokens + 1.0) / 2.0)[1:],
    )
    whole, shared = whole_batches(measured, seen)
    if (shared.any() and whole[shared].mean() < AGREE) or _cached(measured, deployment):
        return found.only(np.zeros(len(found), dtype=np.bool_))
    begun = np.cumsum(summed(first))[1:]
    return found.only(whole & _prompts_whole(found, measured, deployment, summed(tokens), seen.start_s, begun))


def _cached(measured: Measurement, deployment: DeploymentSpec) -> bool:
    """Whether prompts were, or may have been, found in the engine's cache."""
    if not deployment.engine.enable_prefix_caching:
        return False
    hits = measured.engine.get("prefix_hits")
    if hits is not None and np.isfinite(hits).any():
        return bool(np.nanmax(hits) - np.nanmin(hits) > CACHED * measured.prompt_tokens.sum())
    return len(measured.segment_offset) > 0


def clusters(measured: Measurement) -> Clusters:
    """The tokens of a measurement by the step that they came from."""
    request = np.repeat(np.arange(len(measured)), np.diff(measured.token_offset))
    index = np.arange(len(request)) - measured.token_offset[:-1][request]
    gaps_s = np.diff(measured.token_s)[request[1:] == request[:-1]] if len(request) else np.zeros(0)
    apart_s = APART * float(np.quantile(gaps_s, 0.1)) if len(gaps_s) else 0.0
    order = np.argsort(measured.token_s, kind="stable")
    request, index, time_s = request[order], index[order], measured.token_s[order]
    step = np.zeros(len(order), dtype=np.int64)
    last = np.full(len(measured), -1)
    current = 0
    for place, one in enumerate(request.tolist()):
        if place and (last[one] == current or time_s[place] - time_s[place - 1] > apart_s):
            current += 1
        step[place] = last[one] = current
    start_s = np.full(int(step[-1]) + 1 if len(step) else 0, np.inf)
    np.minimum.at(start_s, step, time_s)
    return Clusters(request, index, step, start_s)


def whole_batches(measured: Measurement, seen: Clusters) -> tuple[Mask, Mask]:
    """Which steps from the second follow the one before without a break (all requests that had tokens to come got
    their next one), and before which several had."""
    request, index, step, count = seen.request, seen.index, seen.step, len(seen.start_s)
    more = index + 1 < np.diff(measured.token_offset)[request]
    due = np.bincount(step, weights=more, minlength=count)
    order = np.lexsort((index, request))
    follows = np.zeros(len(step))
    same = request[order][1:] == request[order][:-1]
    follows[order[1:][same]] = step[order][1:][same] == step[order][:-1][same] + 1
    came = np.bincount(step, weights=follows, minlength=count)
    decodes = np.bincount(step, weights=index > 0, minlength=count)
    whole = (due[:-1] > 0) & (came[1:] == due[:-1]) & (decodes[1:] == due[:-1])
    return np.asarray(whole), np.asarray(due[:-1] > 1)


def _prompts_whole(
    steps: Steps, measured: Measurement, deployment: DeploymentSpec, tokens: Floats, start_s: Floats, begun: Floats
) -> Mask:
    """Which steps computed the prompts of their first tokens, whole, and no other."""
    engine = deployment.engine
    budget = engine.max_num_batched_tokens
    longest = engine.long_prefill_token_threshold or budget
    # What did not fit into the step before may have been begun there.
    fits = tokens[:-1] + tokens[1:] + steps.decodes <= budget
    fits &= (steps.prompts == 0) | (steps.prompt_tokens <= np.maximum(steps.prompts, 1) * longest)
    # A request that was sent before the step began and gets its first token later may have been under way.
    answered = measured.sent_s[np.diff(measured.token_offset) > 0]
    sent = np.searchsorted(np.sort(answered), start_s[:-1])
    full = steps.decodes + steps.prompts >= engine.max_num_seqs
    return np.asarray(fits & ((sent <= begun) | full))


def kernel_seconds(surface: StepSurface, steps: Steps, max_model_len: int) -> Floats:
    """What the surface says that the device does in each step, seconds, host time left out."""
    requests = np.clip(steps.decodes + steps.prompts, 1, len(surface.sample_s) - 1)
    tokens = np.clip(steps.decodes + steps.prompt_tokens, 1, len(surface.token_s) - 1).astype(np.int64)
    grid = context_grid(max_model_len)[: surface.decode_s.shape[1]]
    decodes = np.clip(steps.decodes, 0, len(surface.decode_s) - 1)
    mean = steps.context_tokens / np.maximum(steps.decodes, 1)
    attention_s = _read(surface.decode_s, decodes, mean, grid)
    beside = steps.prompts > 0
    if surface.decode_mixed_s.size and beside.any():
        mixed_s = _read(surface.decode_mixed_s, decodes, mean, grid)
        mixed_s = mixed_s + _read(surface.decode_mixed_token_s, decodes, mean, grid) * steps.prompt_tokens
        attention_s = np.where(beside, mixed_s, attention_s)
    call, token, pair, _, read, prompt, key, _ = surface.prefill_s
    per_prompt = steps.prompt_tokens / np.maximum(steps.prompts, 1)
    prefill_s = call + token * steps.prompt_tokens + pair * steps.pairs + read * steps.prompt_tokens
    prefill_s = prefill_s + prompt * steps.prompts + key * per_prompt
    found: Floats = (
        surface.token_s[tokens] + surface.sample_s[requests] + attention_s + np.where(beside, prefill_s, 0.0)
    )
    return found


def _read(table: Floats, rows: Ints, mean: Floats, grid: Floats) -> Floats:
    """A table over (requests, mean context) at points, linear in the context."""
    found = np.zeros(len(rows))
    for row in np.unique(rows).tolist():
        mine = rows == row
        found[mine] = np.interp(mean[mine], grid, table[row, : len(grid)])
    return found
