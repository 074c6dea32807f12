"""Launch commands of deployments that speculate."""

from __future__ import annotations

import json
from typing import Any

import pytest

from windtunnel.report.launch import sglang, vllm
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec


def deployment(**spec: Any) -> DeploymentSpec:
    engine = {"extends": "vllm", "speculative": spec}
    return load_deployment({"model": "llama-3.1-70b", "accelerator": "h100-sxm", "plan": {"tensor_parallel": 4},
                            "engine": engine})  # fmt: skip


def vllm_config(**spec: Any) -> dict[str, Any]:
    words = vllm(deployment(**spec)).arguments
    found: dict[str, Any] = json.loads(words[words.index("--speculative-config") + 1])
    return found


def test_vllm_takes_a_draft_model() -> None:
    assert vllm_config(draft="llama-3.2-1b", acceptance=0.7, draft_tokens=3, draft_tensor_parallel=1) == {
        "method": "draft_model",
        "num_speculative_tokens": 3,
        "model": "meta-llama/Llama-3.2-1B",
        "draft_tensor_parallel_size": 1,
    }


def test_vllm_drafts_less_in_larger_batches() -> None:
    found = vllm_config(method="ngram", acceptance=0.3, draft_tokens=5, disable_above=32)
    assert found["num_speculative_tokens_per_batch_size"] == [[1, 32, 5], [33, 256, 0]]


def test_a_head_has_to_be_found() -> None:
    launch = vllm(deployment(method="eagle"))
    assert any("EAGLE head trained for llama-3.1-70b" in note for note in launch.notes)


@pytest.mark.parametrize("spec", [
    {"method": "parallel", "draft": "llama-3.2-1b", "acceptance": 0.7},
    {"method": "eagle", "tree": [3, 1], "draft_tokens": 2, "candidate_acceptance": [0.5, 0.1, 0.1]},
])  # fmt: skip
def test_what_an_engine_cannot_do_is_said(spec: dict[str, Any]) -> None:
    launch = vllm(deployment(**spec))
    assert "--speculative-config" not in launch.arguments
    assert any("without drafts" in note for note in launch.notes)


def test_sglang_counts_the_root_of_the_tree() -> None:
    launch = sglang(deployment(method="eagle", tree=[2, 2], draft_tokens=2, candidate_acceptance=[0.6, 0.1]))
    text = " ".join(launch.arguments)
    assert "--speculative-algorithm EAGLE" in text
    assert "--speculative-num-steps 2 --speculative-eagle-topk 2 --speculative-num-draft-tokens 7" in text
    assert "--speculative" not in " ".join(sglang(deployment(method="medusa")).arguments)
