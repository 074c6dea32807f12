"""Skip-join multi-level feedback queue, preempting at every token by swapping."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_engine(deployment, scheduler="fastserve")


TECHNIQUE = Technique(
    name="fastserve",
    title="FastServe",
    citation="Wu et al., Fast Distributed Inference Serving for Large Language Models, NSDI 2026",
    url="https://arxiv.org/abs/2305.05920",
    changes=("schedule", "memory"),
    apply=_apply,
    kind="scheduler",
)
