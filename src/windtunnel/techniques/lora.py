"""LoRA adapters beside one another over the same weights, a different one per request."""

from __future__ import annotations

from typing import Any

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import build
from windtunnel.specs.lora import LoraSpec
from windtunnel.techniques.technique import Knob, Technique, Values, with_engine


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    adapters = int(values["adapters"])
    fields: dict[str, Any] = {
        "adapters": adapters,
        "rank": int(values["rank"]),
        "max_loras": min(int(values["at-once"]), adapters),
        "targets": values["targets"],
        "popularity": values["popularity"],
        "zipf_exponent": values["exponent"],
        "base_share": values["base"],
    }
    return with_engine(deployment, lora=build(LoraSpec, fields, "technique lora"))


TECHNIQUE = Technique(
    name="lora",
    title="LoRA adapters per request",
    citation="Sheng et al., S-LoRA: Serving Thousands of Concurrent LoRA Adapters, MLSys 2024",
    url="https://arxiv.org/abs/2311.03285",
    changes=("compute", "bytes", "memory", "schedule", "quality"),
    apply=_apply,
    knobs=(
        Knob("rank", "rank of every adapter", 16, 1, 1024),
        Knob("adapters", "adapters that requests name", 16, 1, 100_000),
        Knob("at-once", "adapters on the device, and most different ones in a step", 8, 1, 100_000),
        Knob("targets", "adapted matrices", "all-linear", words=("all-linear", "attention")),
        Knob("popularity", "which adapter a request names", "uniform", words=("uniform", "zipf", "tenant")),
        Knob("exponent", "of popularity zipf", 1.0, 0.0, 10.0, whole=False),
        Knob("base", "share of requests without an adapter", 0.0, 0.0, 1.0, whole=False),
    ),
    conflicts={"speculative": "adapters are modelled without drafts", "early-exit": "adapters run at full depth"}
    | dict.fromkeys(
        ("static-batching", "flover", "orca", "sarathi", "splitfuse", "batchllm", "fastserve", "fastswitch", "vtc"),
        "adapters are modelled in the scheduler vllm",
    ),
)
