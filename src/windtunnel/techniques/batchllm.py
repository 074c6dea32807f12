"""Global prefix sharing: groups that share a prefix together, decode-heavy first, batches limited by memory."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_engine(deployment, scheduler="batchllm", enable_prefix_caching=True)


TECHNIQUE = Technique(
    name="batchllm",
    title="BatchLLM",
    citation="Zheng et al., BatchLLM: Optimizing Large Batched LLM Inference with Global Prefix Sharing, 2024",
    url="https://arxiv.org/abs/2412.03594",
    changes=("schedule", "memory"),
    apply=_apply,
    kind="scheduler",
)
