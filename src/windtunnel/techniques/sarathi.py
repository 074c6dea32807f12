"""Stall-free batching: decodes first, prompts in chunks with what is left of the token budget."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Knob, Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_engine(
        deployment, scheduler="sarathi", max_num_batched_tokens=int(values["budget"]), enable_chunked_prefill=True
    )


TECHNIQUE = Technique(
    name="sarathi",
    title="Sarathi-Serve",
    citation="Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve, OSDI 2024",
    url="https://arxiv.org/abs/2403.02310",
    changes=("schedule",),
    apply=_apply,
    kind="scheduler",
    knobs=(Knob("budget", "tokens of a step, decodes included", 512, 16, 65536),),
)
