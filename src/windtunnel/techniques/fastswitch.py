"""Swapping in groups of blocks beside the computation, with copies kept for the next switch."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_engine(deployment, scheduler="fastswitch")


TECHNIQUE = Technique(
    name="fastswitch",
    title="FastSwitch",
    citation="Shen et al., FastSwitch: Optimizing Context Switching Efficiency in Fairness-aware LLM Serving, 2024",
    url="https://arxiv.org/abs/2411.18424",
    changes=("schedule", "memory", "communication"),
    apply=_apply,
    kind="scheduler",
)
