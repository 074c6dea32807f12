"""Dynamic SplitFuse: forward passes of one size, long prompts split, short ones put together."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Knob, Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_engine(
        deployment, scheduler="splitfuse", max_num_batched_tokens=int(values["budget"]), enable_chunked_prefill=True
    )


TECHNIQUE = Technique(
    name="splitfuse",
    title="DeepSpeed-FastGen",
    citation="Holmes et al., DeepSpeed-FastGen: High-throughput Text Generation via MII and DeepSpeed-Inference, 2024",
    url="https://arxiv.org/abs/2401.08671",
    changes=("schedule",),
    apply=_apply,
    kind="scheduler",
    knobs=(Knob("budget", "tokens of a forward pass (768 in DeepSpeed-MII)", 768, 16, 65536),),
)
