"""Figures of papers that change how deep a token goes, or who drafts it: early exit and speculation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.depth import DepthSpec
from windtunnel.techniques.speculation import acceptance_of, expected_tokens, parallel_token_s, serial_token_s
from windtunnel.techniques.technique import with_engine

if TYPE_CHECKING:
    from windtunnel.evidence.experiment import Setup

POINTS = 12
"""Positions at which a growing sequence is priced."""


def scheduled_depth_s(setup: Setup) -> float:
    """Seconds to generate `batch.output` tokens when depth falls with the position, the same for the whole batch.

    `batch.deepest` layers at the first token fall evenly to `batch.shallowest` at the last; without them every
    token goes through all layers.
    """
    given: dict[str, Any] = setup.fields["batch"]
    layers = setup.deployment.model.layers
    first, last = int(given.get("deepest", layers)), int(given.get("shallowest", layers))
    seconds = [
        _step_s(setup.deployment, DepthSpec(mean_share=(first + (last - first) * place) / layers), given, place)
        for place in np.linspace(0.0, 1.0, POINTS).tolist()
    ]
    return float(np.mean(seconds)) * int(given["output"])


def token_exit_s(setup: Setup) -> float:
    """The same when every token leaves at a depth of its own, so that a batch waits for its deepest token.

    Every depth from `batch.shallowest` to `batch.deepest` is as likely as any other.
    """
    given: dict[str, Any] = setup.fields["batch"]
    low, high = int(given["shallowest"]), int(given["deepest"])
    layer = np.arange(1, setup.deployment.model.layers + 1)
    runs = np.clip((high - layer + 1) / (high - low + 1), 0.0, 1.0)
    spec = DepthSpec(survival=tuple(runs.tolist()), rule="deepest")
    seconds = [_step_s(setup.deployment, spec, given, place) for place in np.linspace(0.0, 1.0, POINTS).tolist()]
    return float(np.mean(seconds)) * int(given["output"])


def _step_s(deployment: DeploymentSpec, depth: DepthSpec, given: dict[str, Any], place: float) -> float:
    context = round(int(given["prompt"]) + place * int(given["output"]))
    batch = decode_batch(int(given["requests"]), context)
    return price_step(with_engine(deployment, depth=depth), batch).total_s


def plain_token_s(setup: Setup) -> float:
    """Seconds per token of the target alone, one request."""
    return price_step(setup.deployment, decode_batch(1, int(setup.fields["batch"]["context"]))).total_s


def serial_draft_token_s(setup: Setup) -> float:
    """Seconds per token with drafting and verification in turns, `speculation.serial_tokens` drafted at a time."""
    length = int(setup.fields["speculation"]["serial_tokens"])
    return serial_token_s(acceptance(setup), length, draft_s(setup), verify_s(setup, length + 1))


def parallel_draft_token_s(setup: Setup) -> float:
    """Seconds per token with drafting beside verification, `speculation.parallel_tokens` drafted at a time."""
    length = int(setup.fields["speculation"]["parallel_tokens"])
    return parallel_token_s(acceptance(setup), length, draft_s(setup), verify_s(setup, length))


def acceptance(setup: Setup) -> float:
    """Chance that a drafted token is accepted: that at which taking turns is `serial_speedup` times as fast as plain.

    Papers rarely state it; a published speed-up of the baseline does, given what a step costs.
    """
    given: dict[str, Any] = setup.fields["speculation"]
    length = int(given["serial_tokens"])
    token_s = plain_token_s(setup) / float(given["serial_speedup"])
    return acceptance_of(token_s, length, draft_s(setup), verify_s(setup, length + 1))


def accepted_serial(setup: Setup) -> float:
    """Mean drafted tokens accepted in a row when taking turns."""
    chance, length = acceptance(setup), int(setup.fields["speculation"]["serial_tokens"])
    return expected_tokens(chance, length) - 1.0


def accepted_parallel(setup: Setup) -> float:
    """Mean drafted tokens accepted in a row where nothing but a rejection ends them."""
    chance = acceptance(setup)
    return chance / (1.0 - chance) if chance < 1.0 else math.inf


def draft_s(setup: Setup) -> float:
    """Seconds of a step of the draft model, which runs under the same engine."""
    draft = load_deployment({"engine": setup.fields["engine"], **setup.fields["draft"]})
    return price_step(draft, decode_batch(1, int(setup.fields["batch"]["context"]))).total_s


def verify_s(setup: Setup, tokens: int) -> float:
    """Seconds of the target's step over so many tokens of one request."""
    context = int(setup.fields["batch"]["context"])
    return price_step(setup.deployment, prefill_batch([(context, tokens)])).total_s
