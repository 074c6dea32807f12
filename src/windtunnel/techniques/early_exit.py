"""Early exit: generated tokens run a part of the layers."""

from __future__ import annotations

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.depth import DepthSpec
from windtunnel.specs.load import build
from windtunnel.techniques.technique import Knob, Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    fields = {"mean_share": values["depth"], "least_share": values["least"], "rule": values["rule"]}
    return with_engine(deployment, depth=build(DepthSpec, fields, "technique early-exit"))


TECHNIQUE = Technique(
    name="early-exit",
    title="early exit and adaptive depth",
    citation="Del Corro et al., SkipDecode: Autoregressive Skip Decoding with Batching and Caching (2023)",
    url="https://arxiv.org/abs/2307.02628",
    changes=("compute", "bytes", "quality"),
    apply=_apply,
    knobs=(
        Knob("depth", "mean share of the layers that a generated token runs", 0.5, 0.01, 1.0, whole=False),
        Knob("least", "share that every token runs", 0.0, 0.0, 1.0, whole=False),
        Knob(
            "rule",
            "together: a batch leaves as one (SkipDecode); deepest: it waits for its deepest token; each: it shrinks",
            "together",
            words=("together", "deepest", "each"),
        ),
    ),
    conflicts={"speculative": "early exit is modelled without drafts"},
)
