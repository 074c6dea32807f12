"""Fair queueing: the tenant that has had the least service is next."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_engine(deployment, scheduler="vtc")


TECHNIQUE = Technique(
    name="vtc",
    title="Virtual Token Counter",
    citation="Sheng et al., Fairness in Serving Large Language Models, OSDI 2024",
    url="https://arxiv.org/abs/2401.00588",
    changes=("schedule",),
    apply=_apply,
    kind="scheduler",
)
