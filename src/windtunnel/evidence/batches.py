"""Outcomes with a closed form: static batches, one request at a time, and a batch in full swing."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from windtunnel.evidence.steps import StepPricer, Steps

Floats = npt.NDArray[np.float64]

CONTEXT_POINTS = 33
"""Contexts at which the decode steps of a batch are priced; steps are close to linear in between."""
LENGTH_BIAS = 0.82
"""Mean age of a running request over the mean output, (1 + c^2) / 2: long requests are met running more often than
short ones. c = 0.8 is the coefficient of variation of answers' lengths."""
TYPICAL = 0.5
"""Median over mean of the prompts that a step holds: lengths are log-normal with a deviation of about 1.2."""
MICRO_TOKENS = 1024
"""Tokens above which FasterTransformer cuts a pipeline's batch further."""


def static_batch(pricer: StepPricer, batch: int, input_tokens: int, output_tokens: int) -> dict[str, float]:
    """A batch prefilled together, then decoded in lockstep until every request has its tokens.

        e2e = prefill + (output - 1) * mean decode step

    Args:
        pricer: of the deployment.
        batch: requests.
        input_tokens: prompt tokens of each; 0 starts from an empty context.
        output_tokens: tokens that each generates; 0 or 1 stops after the prefill.
    """
    first = prefill_in_steps(pricer, batch, input_tokens) if input_tokens else Steps(np.zeros(1), np.zeros(1))
    generated = max(output_tokens - 1, 0) if input_tokens else output_tokens
    step_s, step_j = _mean_decode(pricer, batch, input_tokens, generated)
    prefill_s, prefill_j = float(first.seconds.sum()), float(first.joules.sum())
    e2e_s = prefill_s + generated * step_s
    joules = prefill_j + generated * step_j
    values = {"ttft_s": prefill_s, "e2e_s": e2e_s}
    if input_tokens:
        values["prefill_tokens_per_s"] = batch * input_tokens / prefill_s
    if generated:
        values["decode_step_s"] = step_s
        values["time_per_generated_token_s"] = e2e_s / output_tokens / batch
        values["decode_tokens_per_s"] = batch / step_s
        values["output_tokens_per_s"] = batch * output_tokens / e2e_s
    return values | _power(pricer, joules, e2e_s, batch * max(output_tokens, 1))


def prefill_in_steps(pricer: StepPricer, batch: int, input_tokens: int) -> Steps:
    """The prefill of a batch in steps of at most the engine's token budget.

    Whole prompts share a step as far as they fit; a prompt longer than the budget is cut into
    chunks, and chunks of one prompt follow each other.
    """
    budget = pricer.deployment.engine.max_num_batched_tokens
    stages = pricer.deployment.plan.pipeline_parallel
    if stages > 1 and not pricer.deployment.engine.enable_chunked_prefill:
        size = micro_batch(batch, input_tokens, stages)
        return _in_pipeline(pricer.prefill(size, input_tokens), batch / size, stages)
    if input_tokens <= budget:
        together = min(batch, budget // input_tokens)
        full, rest = divmod(batch, together)
        one = pricer.prefill(together, input_tokens)
        seconds, joules = full * one.seconds, full * one.joules
        if rest:
            last = pricer.prefill(rest, input_tokens)
            seconds, joules = seconds + last.seconds, joules + last.joules
        return Steps(seconds, joules)
    return _chunked(pricer, batch, input_tokens, budget)


def micro_batch(batch: int, tokens: int, stages: int) -> int:
    """Requests of a micro-batch when a static batch runs through pipeline stages, as FasterTransformer cuts it.

    A stage's share where the batch divides, halved while it holds more than 1,024 tokens.

    >>> micro_batch(256, 128, 3), micro_batch(6, 20, 3)
    (8, 2)
    """
    size = batch // stages if batch % stages == 0 else batch
    while size * tokens > MICRO_TOKENS and size % 2 == 0:
        size //= 2
    return size


def _in_pipeline(one: Steps, pieces: float, stages: int) -> Steps:
    """Equal pieces that follow each other through the stages: the last leaves after pieces + stages - 1 slots."""
    slots = (pieces + stages - 1) / stages
    return Steps(one.seconds * slots, one.joules * pieces)


def _chunked(pricer: StepPricer, batch: int, input_tokens: int, budget: int) -> Steps:
    """Prompts longer than the budget: chunk after chunk, pipeline stages working on different chunks.

    With S stages and chunks c of one length the last leaves after sum(c) / S + (S - 1) / S * max(c).
    """
    pieces = []
    for start in range(0, input_tokens, budget):
        size = min(budget, input_tokens - start)
        pieces.append(pricer.prefill(1, size, start, last=start + size == input_tokens))
    seconds = np.concatenate([piece.seconds for piece in pieces])
    joules = sum(float(piece.joules.sum()) for piece in pieces)
    stages = pricer.deployment.plan.pipeline_parallel
    total = batch * float(seconds.sum()) / stages + (stages - 1) / stages * float(seconds.max())
    return Steps(np.array([total]), np.array([batch * joules]))


def _mean_decode(pricer: StepPricer, batch: float, start: int, steps: int) -> tuple[float, float]:
    """(seconds, joules) of the mean of `steps` decode steps that begin after `start` tokens of context."""
    if steps < 1:
        return 0.0, 0.0
    contexts = np.linspace(start + 1, start + steps, min(steps, CONTEXT_POINTS))
    stages = pricer.deployment.plan.pipeline_parallel
    size: float = batch
    if stages > 1 and batch == int(batch) and not pricer.deployment.engine.enable_chunked_prefill:
        size = micro_batch(int(batch), 1, stages)
    found = _in_pipeline(pricer.decode(size, contexts), batch / size, stages)
    return _mean(found.seconds), _mean(found.joules)


def _mean(values: Floats) -> float:
    """Mean over evenly spaced points of what is linear in between."""
    return float(np.trapezoid(values) / (len(values) - 1)) if len(values) > 1 else float(values[0])


def steady_batch(pricer: StepPricer, batch: float, input_tokens: int, output_tokens: int) -> dict[str, float]:
    """A batch of a stated mean size in full swing: as many requests begin as end.

    Each request prefills once in `output` steps, so p = batch / output prompts begin in a step on average,
    independently of each other: a share 1 - exp(-p) of the steps holds prompts, p / share of them each, beside
    the batch that decodes. The median gap between tokens is a step with prompts where most steps hold some.
    """
    context = input_tokens + LENGTH_BIAS * output_tokens
    alone = pricer.decode(batch, context)
    decode_s, decode_j = float(alone.seconds[0]), float(alone.joules[0])
    prompts = batch / output_tokens
    share = -math.expm1(-prompts)
    beside = pricer.mixed(batch, context, prompts / share, max(input_tokens, 1))
    beside_s, beside_j = float(beside.seconds[0]), float(beside.joules[0])
    mean_s = (1.0 - share) * decode_s + share * beside_s
    joules = (1.0 - share) * decode_j + share * beside_j
    values = {
        "itl_median_s": decode_s if share < 0.5 else _typical_s(pricer, batch, context, prompts / share, input_tokens),
        "tpot_mean_s": mean_s,
        "output_tokens_per_s": batch / mean_s,
    }
    return values | _power(pricer, joules, mean_s, batch)


def _typical_s(pricer: StepPricer, batch: float, context: float, prompts: float, input_tokens: int) -> float:
    """Seconds of the median step that holds prompts: their lengths are skewed, most are well below the mean."""
    return float(pricer.mixed(batch, context, prompts, max(round(TYPICAL * input_tokens), 1)).seconds[0])


def _power(pricer: StepPricer, joules: float, seconds: float, tokens: float) -> dict[str, float]:
    """Mean watts of all accelerators, of each, as a share of the board's limit, and joules per output token."""
    if seconds <= 0:
        return {}
    deployment = pricer.deployment
    count = deployment.plan.accelerators_per_replica
    watts = joules / seconds + count * deployment.accelerator.idle_w
    replicas = deployment.plan.replicas
    return {
        "mean_w": watts * replicas,
        "mean_w_per_accelerator": watts / count,
        "power_share": watts / count / deployment.accelerator.max_w,
        "joules_per_output_token": watts * seconds / tokens,
    }
