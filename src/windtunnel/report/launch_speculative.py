"""The part of a launch command that says how to speculate.

vLLM 0.32: `--speculative-config` with the fields of its `SpeculativeConfig`. SGLang: the `--speculative-*` flags of
its page "Speculative Decoding".
"""

from __future__ import annotations

import json
from typing import Any

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import draft_model
from windtunnel.specs.speculation import SpeculativeSpec

Words = tuple[list[str], list[str]]
"""Words of the command, and notes on what it cannot say."""

_HEAD = "trained-draft-head"
_VLLM = {"draft-model": "draft_model", "eagle": "eagle", "mtp": "mtp", "medusa": "medusa", "ngram": "ngram"}
_SGLANG = {"draft-model": "STANDALONE", "eagle": "EAGLE", "mtp": "EAGLE", "ngram": "NGRAM"}


def vllm_speculation(deployment: DeploymentSpec) -> Words:
    """`--speculative-config '{...}'`, or a note where vLLM cannot."""
    spec = deployment.engine.speculative
    if spec is None:
        return [], []
    if spec.method not in _VLLM or spec.tree:
        what = "drafting beside the target" if spec.method not in _VLLM else "this tree of drafts"
        return [], [f"vLLM has no flag for {what}; the command starts it without drafts"]
    config: dict[str, Any] = {"method": _VLLM[spec.method], "num_speculative_tokens": spec.draft_tokens}
    model, notes = _checkpoint(deployment, spec)
    if model:
        config["model"] = model
    if spec.draft_tensor_parallel:
        config["draft_tensor_parallel_size"] = spec.draft_tensor_parallel
    if spec.one_pass:
        config["parallel_drafting"] = True
    most = deployment.engine.max_num_seqs
    if 0 < spec.disable_above < most:
        ranges = [[1, spec.disable_above, spec.draft_tokens], [spec.disable_above + 1, most, 0]]
        config["num_speculative_tokens_per_batch_size"] = ranges
    return ["--speculative-config", json.dumps(config)], notes + _adaptive(spec)


def sglang_speculation(deployment: DeploymentSpec) -> Words:
    """`--speculative-algorithm ...`, or a note where SGLang cannot."""
    spec = deployment.engine.speculative
    if spec is None:
        return [], []
    if spec.method not in _SGLANG or len(set(spec.tree)) > 1:
        what = "this tree of drafts" if spec.tree else f"drafts by {spec.method}"
        return [], [f"SGLang has no flag for {what}; the command starts it without drafts"]
    words = ["--speculative-algorithm", _SGLANG[spec.method]]
    model, notes = _checkpoint(deployment, spec)
    if model:
        words += ["--speculative-draft-model-path", model]
    if spec.method != "ngram":
        words += ["--speculative-num-steps", str(spec.draft_tokens)]
        words += ["--speculative-eagle-topk", str(spec.tree[0] if spec.tree else 1)]
    # SGLang counts the root of the tree, the request's own next token.
    words += ["--speculative-num-draft-tokens", str(spec.nodes + 1)]
    if spec.disable_above:
        notes.append("SGLang drafts in every step")
    return words, notes + _adaptive(spec)


def _checkpoint(deployment: DeploymentSpec, spec: SpeculativeSpec) -> tuple[str, list[str]]:
    """The drafter's checkpoint, and a note where it has to be found."""
    if spec.method in ("ngram", "mtp"):
        return "", []
    if spec.draft:
        model = draft_model(deployment.model, spec)
        return next((alias for alias in model.aliases if alias.count("/") == 1), spec.draft), []
    title = {"eagle": "an EAGLE head", "medusa": "Medusa's heads"}[spec.method]
    return _HEAD, [f"put the checkpoint of {title} trained for {deployment.model.name} in place of {_HEAD}"]


def _adaptive(spec: SpeculativeSpec) -> list[str]:
    if spec.adaptive == "off":
        return []
    return ["how the number of drafted tokens adapts is simulated; the command drafts the most of them always"]
