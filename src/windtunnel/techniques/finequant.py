"""Weight-only quantisation with fine-grained groups: weights in 8 or 4 bits, arithmetic in 16."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Knob, Technique, Values, with_plan


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_plan(deployment, weight_dtype="int4" if values["bits"] == 4 else "int8", compute_dtype="fp16")


TECHNIQUE = Technique(
    name="finequant",
    title="FineQuant",
    citation="Kim et al., FineQuant: Unlocking Efficiency with Fine-Grained Weight-Only Quantization for LLMs, 2023",
    url="https://arxiv.org/abs/2308.09723",
    changes=("bytes", "memory", "quality"),
    apply=_apply,
    kind="weight format",
    knobs=(Knob("bits", "bits of a weight", 4, choices=(4, 8)),),
)
