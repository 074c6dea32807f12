"""KV cache in 8 bits: half the memory and half the traffic of decode attention."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Technique, Values, with_plan


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_plan(deployment, kv_dtype="fp8")


TECHNIQUE = Technique(
    name="kv-fp8",
    title="KV cache in fp8",
    citation="vLLM documentation, Quantized KV Cache",
    url="https://docs.vllm.ai/en/latest/features/quantization/quantized_kvcache.html",
    changes=("bytes", "memory", "quality"),
    apply=_apply,
    kind="KV format",
)
