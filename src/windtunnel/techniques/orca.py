"""Iteration-level scheduling: requests join and leave the batch at every step, prompts whole."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_whole_prompts


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_whole_prompts(deployment, scheduler="orca", enable_prefix_caching=False)


TECHNIQUE = Technique(
    name="orca",
    title="Orca",
    citation="Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative Models, OSDI 2022",
    url="https://www.usenix.org/conference/osdi22/presentation/yu",
    changes=("schedule",),
    apply=_apply,
    kind="scheduler",
)
