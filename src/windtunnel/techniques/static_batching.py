"""Static batching: a batch starts together and ends with its longest output (FasterTransformer's serving)."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.techniques.technique import Knob, Technique, Values, with_whole_prompts


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    return with_whole_prompts(
        deployment, scheduler="static", max_num_seqs=int(values["batch"]), enable_prefix_caching=False
    )


TECHNIQUE = Technique(
    name="static-batching",
    title="static batching",
    citation="Described as the baseline in Yu et al., Orca, OSDI 2022, section 2",
    url="https://www.usenix.org/conference/osdi22/presentation/yu",
    changes=("schedule",),
    apply=_apply,
    kind="scheduler",
    knobs=(Knob("batch", "most requests of a batch", 8, 1, 4096),),
)
