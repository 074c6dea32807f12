"""Temporal fusion: the decode steps of requests that arrived at different times run as one batch.

A prompt is computed in a step of its own when it arrives and the request then joins the fused generation,
which is what prefill-first scheduling does; finished requests leave at once.
"""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_whole_prompts


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_whole_prompts(deployment, scheduler="vllm-v0", enable_prefix_caching=False)


TECHNIQUE = Technique(
    name="flover",
    title="Flover",
    citation="Yao et al., Flover: A Temporal Fusion Framework for Efficient Autoregressive Inference, HiPC 2023",
    url="https://arxiv.org/abs/2305.13484",
    changes=("schedule",),
    apply=_apply,
    kind="scheduler",
)
