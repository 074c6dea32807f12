"""Figures of papers that change how deep a token goes, or who drafts it: early exit and speculation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.speculation import best_serial, parallel_token_s

if TYPE_CHECKING:
    from windtunnel.evidence.experiment import Setup

POINTS = 12
"""Positions at which a growing sequence is priced."""


def with_layers(deployment: DeploymentSpec, layers: int) -> DeploymentSpec:
    """The deployment with a model of fewer layers, everything else alike."""
    model = deployment.model
    window = min(model.window_layers, layers)
    return deployment.model_copy(update={"model": model.model_copy(update={"layers": layers, "window_layers": window})})


def scheduled_depth_s(setup: Setup) -> float:
    """Seconds to generate `batch.output` tokens when depth falls with the position, the same for the whole batch.

    `batch.deepest` layers at the first token fall evenly to `batch.shallowest` at the last; without them every
    token goes through all layers.
    """
    given: dict[str, Any] = setup.fields["batch"]
    layers = setup.deployment.model.layers
    first, last = int(given.get("deepest", layers)), int(given.get("shallowest", layers))
    places = np.linspace(0.0, 1.0, POINTS)
    seconds = [
        _step_s(setup.deployment, round(first + (last - first) * place), given, place) for place in places.tolist()
    ]
    return float(np.mean(seconds)) * int(given["output"])


def token_exit_s(setup: Setup) -> float:
    """The same when every token leaves at a depth of its own, so that a batch waits for its deepest token.

    Depths are spread evenly between `batch.shallowest` and `batch.deepest`: the deepest of n tokens is on
    average at (n / (n + 1)) of the way.
    """
    given: dict[str, Any] = setup.fields["batch"]
    low, high, n = int(given["shallowest"]), int(given["deepest"]), int(given["requests"])
    deepest = round(low + (high - low) * n / (n + 1))
    places = np.linspace(0.0, 1.0, POINTS).tolist()
    return float(np.mean([_step_s(setup.deployment, deepest, given, place) for place in places])) * int(given["output"])


def _step_s(deployment: DeploymentSpec, layers: int, given: dict[str, Any], place: float) -> float:
    context = round(int(given["prompt"]) + place * int(given["output"]))
    return price_step(with_layers(deployment, layers), decode_batch(int(given["requests"]), context)).total_s


def plain_token_s(setup: Setup) -> float:
    """Seconds per token of the target alone, one request."""
    return price_step(setup.deployment, decode_batch(1, int(setup.fields["batch"]["context"]))).total_s


def serial_draft_token_s(setup: Setup) -> float:
    """Seconds per token with drafting and verification in turns, at the best draft length."""
    draft_s, verify_s = _costs(setup)
    return best_serial(float(setup.fields["batch"]["acceptance"]), draft_s, verify_s)[1]


def parallel_draft_token_s(setup: Setup) -> float:
    """Seconds per token with drafting beside verification, as many drafted as one verification lasts."""
    draft_s, verify_s = _costs(setup)
    length = max(round(verify_s / draft_s), 1)
    return parallel_token_s(float(setup.fields["batch"]["acceptance"]), length, draft_s, verify_s)


def _costs(setup: Setup) -> tuple[float, float]:
    """Time of a draft step and of a verification. A few tokens cost the target hardly more than one."""
    from windtunnel.specs.assemble import load_deployment

    draft = load_deployment({"engine": setup.fields.get("engine", "vllm"), **setup.fields["draft"]})
    context = int(setup.fields["batch"]["context"])
    draft_s = price_step(draft, decode_batch(1, context)).total_s
    one_s = plain_token_s(setup)
    length = max(round(one_s / draft_s), 1)
    verify_s = price_step(setup.deployment, prefill_batch([(context, length + 1)])).total_s
    return draft_s, verify_s
