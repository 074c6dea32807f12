"""Speculative decoding: a drafter proposes tokens, the model verifies them in one step."""

from __future__ import annotations

from typing import Any, get_args

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import build
from windtunnel.specs.speculation import Method, SpeculativeSpec
from windtunnel.techniques.technique import Knob, Technique, Values, with_engine

_SCHEDULERS = (
    "static-batching",
    "flover",
    "orca",
    "sarathi",
    "splitfuse",
    "batchllm",
    "fastserve",
    "fastswitch",
    "vtc",
)
_WHERE = "technique speculative"


def _apply(deployment: DeploymentSpec, values: Values) -> DeploymentSpec:
    method = values["method"] or ("draft-model" if values["draft"] else "eagle")
    fields: dict[str, Any] = {"method": method, "draft": values["draft"], "draft_tokens": int(values["tokens"])}
    fields |= {"adaptive": values["adaptive"], "disable_above": int(values["above"])}
    tree, accepted = _numbers("tree", values["tree"]), _numbers("acceptance", values["acceptance"])
    if tree:
        fields |= {"tree": tree, "draft_tokens": len(tree), "candidate_acceptance": accepted}
    elif len(accepted) > 1:
        fields |= {"position_acceptance": accepted, "draft_tokens": len(accepted)}
    elif accepted:
        fields["acceptance"] = accepted[0]
    return with_engine(deployment, speculative=build(SpeculativeSpec, fields, _WHERE))


def _numbers(knob: str, text: str) -> list[float]:
    """Numbers between slashes."""
    try:
        return [float(part) for part in text.split("/")] if text else []
    except ValueError:
        raise SpecError(Problem("must be numbers between slashes", _WHERE, knob, repr(text))) from None


TECHNIQUE = Technique(
    name="speculative",
    title="speculative decoding",
    citation="Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML 2023",
    url="https://arxiv.org/abs/2211.17192",
    changes=("compute", "bytes", "memory", "schedule"),
    apply=_apply,
    knobs=(
        Knob("method", "who drafts; draft-model with a draft, else eagle", "", words=get_args(Method)),
        Knob("draft", "the draft model, a catalogue name or file", ""),
        Knob("tokens", "tokens drafted per request and step", 4, 1, 1024),
        Knob(
            "acceptance",
            "chance that a drafted token is accepted; 0.8/0.6/... as measured per position, or per candidate of a tree",
            "",
        ),
        Knob("tree", "candidates per node at each depth, such as 4/2/1", ""),
        Knob("adaptive", "what the number of tokens follows", "off", words=("off", "load", "recent")),
        Knob("above", "no drafts in steps of more requests than this; 0 always drafts", 0, 0),
    ),
    conflicts=dict.fromkeys(_SCHEDULERS, "drafts are modelled in the scheduler vllm"),
)
