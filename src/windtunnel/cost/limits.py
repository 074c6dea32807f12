"""Bounds that no schedule of a deployment can beat, from the speed of light alone.

They hold whatever the distribution of lengths around the means, because they use only what a mean
fixes (and Jensen's inequality for squares): peak rates, weights read once a step, the host's time per
step. A request gets one token per step, or with speculative decoding at best one more than it drafts.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.cost.depth import survival
from windtunnel.cost.device import Device
from windtunnel.cost.memory import memory_need
from windtunnel.cost.price import compute_dtype_of, limit_seconds, pricing_of
from windtunnel.operators.attention import PrefillAttention
from windtunnel.operators.batch import Batch, decode_batch, prefill_batch
from windtunnel.operators.expand import expand
from windtunnel.operators.operator import Operator
from windtunnel.specs.deployment import DeploymentSpec


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a deployment cannot beat.

    Attributes:
        request_rate_per_s: most requests per second that all replicas complete in the long run.
        tpot_s: least time between two tokens of a request.
        deployment: what it is about.
    """

    request_rate_per_s: float
    tpot_s: float
    deployment: DeploymentSpec

    def ttft_s(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """Least time from arrival to first token of a prompt of which `cached_tokens` are in the prefix cache.

        A step runs through every stage in turn; chunks on different stages at once share the
        computation at best evenly, but the last token meets every weight.
        """
        d = self.deployment
        device, _ = pricing_of(d)
        computed = max(1, prompt_tokens - cached_tokens)
        chunk = prefill_batch([(prompt_tokens - computed, computed)], d.model.attended_tokens)
        compute = _compute_s(expand(d.model, d.plan, chunk), device) / d.plan.pipeline_parallel
        return _host_s(d) + max(compute, _step_s(d, prefill_batch([(prompt_tokens - 1, 1)], d.model.attended_tokens)))


def bounds(
    deployment: DeploymentSpec, mean_prompt_tokens: float, mean_output_tokens: float, *, cached_share: float = 0.0
) -> Bounds:
    """Optimistic bounds of a deployment under traffic of these mean lengths.

    The rate is the least of three:

        compute    a request's FLOPs at peak rate, spread evenly over the stages
        slots      max_num_seqs requests run at once, each for a first step and (output - 1) * tpot
        memory     KV of generated tokens: half the square of the output, held for tpot each (left out
                   with windowed layers, whose old tokens an engine may drop)

    Args:
        deployment: what runs.
        mean_prompt_tokens: mean prompt length.
        mean_output_tokens: mean generated tokens, at least 1.
        cached_share: share of prompt tokens found in the prefix cache; 0 makes the bound hold only
            for traffic that shares no prefixes, 1 for any.
    """
    plan = deployment.plan
    window = deployment.model.attended_tokens
    host = _host_s(deployment)
    spec = deployment.engine.speculative
    step = _least_depth(deployment) * _step_s(deployment, decode_batch(1, 1, window))
    tpot = (host + step) / (1.0 + (spec.depth if spec is not None else 0))
    first = host + _step_s(deployment, prefill_batch([(0, 1)], window))
    outputs = max(mean_output_tokens, 1.0)
    rates = [1.0 / _request_compute_s(deployment, mean_prompt_tokens * (1.0 - cached_share), outputs)]
    rates.append(deployment.engine.max_num_seqs / (first + (outputs - 1.0) * tpot))
    held_token_s = 0.5 * (outputs - 1.0) ** 2 * tpot
    if held_token_s > 0 and not deployment.model.window_layers:
        rates.append(memory_need(deployment).kv_tokens / held_token_s)
    return Bounds(plan.replicas * min(rates), tpot, deployment)


def _least_depth(deployment: DeploymentSpec) -> float:
    """Least share of the layers that a decoded token may run, on average."""
    spec = deployment.engine.depth
    return 1.0 if spec is None else float(survival(spec, deployment.model.layers).mean())


def _host_s(deployment: DeploymentSpec) -> float:
    engine = deployment.hosted_engine
    return engine.step_host_s + engine.request_host_s


def _step_s(deployment: DeploymentSpec, batch: Batch) -> float:
    """The speed of light of a step through all stages."""
    device, links = pricing_of(deployment)
    operators = expand(deployment.model, deployment.plan, batch)
    return sum(one.count * float(limit_seconds(one, device, links)) for one in operators)


def _compute_s(operators: list[Operator], device: Device) -> float:
    """Seconds of one rank's FLOPs at peak rate."""
    return sum(one.count * float(one.flops) / device.peak_flops_per_s(compute_dtype_of(one)) for one in operators)


def _request_compute_s(deployment: DeploymentSpec, prompt_tokens: float, output_tokens: float) -> float:
    """Compute of a request on a rank, its stages sharing it evenly.

    Tokens that attend to nothing but themselves cost what every token costs at least; pairs of the
    prompt are at least half its mean's square where layers attend to everything, and none are
    counted for windowed layers or for what is generated.
    """
    device, _ = pricing_of(deployment)
    operators = expand(deployment.model, deployment.plan, prefill_batch([(0, 1)]))
    token = _compute_s([one for one in operators if one.part == "tokens"], device)
    head = _compute_s([one for one in operators if one.part == "sampled"], device)
    pair = _compute_s([one for one in operators if isinstance(one, PrefillAttention)], device)
    attention = pair * 0.5 * prompt_tokens**2
    computed = max(1.0, prompt_tokens) + _least_depth(deployment) * (output_tokens - 1.0)
    return (token * computed + head * output_tokens + attention) / deployment.plan.pipeline_parallel
