"""Speculative decoding switched on: knobs, drafters from the catalogue or the target's shape, mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.api import plan
from windtunnel.cost.memory import memory_need
from windtunnel.cost.money import deployment_usd_per_h
from windtunnel.errors import SpecError
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import drafter_of
from windtunnel.specs.speculation import SpeculativeSpec, default_acceptance, default_source, expected_tokens_of
from windtunnel.techniques.apply import with_techniques
from windtunnel.workload.table import request_table


def deployment(model: Any = "llama-3.1-8b", speculative: dict[str, Any] | None = None, **fields: Any) -> DeploymentSpec:
    engine = {"extends": "vllm", "max_model_len": 8192, **({"speculative": speculative} if speculative else {})}
    return load_deployment({"model": model, "accelerator": "h100-sxm", "engine": engine, **fields})


def spec_of(technique: str) -> SpeculativeSpec:
    found = with_techniques(deployment(), (technique,)).engine.speculative
    assert found is not None
    return found


def test_knobs_reach_the_engine() -> None:
    named = spec_of("speculative:draft=llama-3.2-1b:tokens=3:acceptance=0.7:above=16")
    assert (named.method, named.draft, named.draft_tokens) == ("draft-model", "llama-3.2-1b", 3)
    assert (named.acceptance, named.disable_above) == (0.7, 16)
    head = spec_of("speculative")
    assert (head.method, head.acceptance) == ("eagle", None)
    assert head.chances[0] == default_acceptance("eagle")
    measured = spec_of("speculative:acceptance=0.8/0.6/0.3")
    assert measured.position_acceptance == (0.8, 0.6, 0.3)
    assert measured.draft_tokens == 3
    tree = spec_of("speculative:tree=3/2:acceptance=0.6/0.2/0.1")
    assert tree.widths == (3, 6)
    assert tree.chances == pytest.approx((0.9, 0.9 * 0.8))


def test_defaults_have_a_source() -> None:
    for method in ("eagle", "mtp", "medusa"):
        assert 0 < (default_acceptance(method) or 0) < 1
        assert default_source(method)
    assert default_acceptance("draft-model") is None


def test_acceptance_may_fall_with_the_position() -> None:
    flat = SpeculativeSpec(draft="llama-3.2-1b", acceptance=0.8, draft_tokens=3)
    falling = SpeculativeSpec(draft="llama-3.2-1b", acceptance=0.8, acceptance_decay=0.9, draft_tokens=3)
    assert flat.chances == pytest.approx((0.8, 0.64, 0.512))
    assert falling.chances == pytest.approx((0.8, 0.8 * 0.72, 0.8 * 0.72 * 0.648))
    assert expected_tokens_of(flat) == pytest.approx(1 + 0.8 + 0.64 + 0.512)


@pytest.mark.parametrize(
    ("technique", "message"),
    [
        ("speculative:method=ngram", "needs how often drafts are accepted"),
        ("speculative:method=draft-model:acceptance=0.5", "needs the name of a draft model"),
        ("speculative:draft=lama-3.2-1b:acceptance=0.5", "did you mean 'llama-3.2-1b'"),
        ("speculative:acceptance=often", "numbers between slashes"),
        ("speculative:acceptance=0.5/0.6", "do not increase"),
        ("speculative:tree=3/2:acceptance=0.6", "entry for each of 3 candidates"),
        ("speculative:method=mtp:tree=2/1:acceptance=0.6/0.2", "tree: is for draft-model"),
        ("speculative:tokens=0", "out of range"),
        ("speculative:adaptive=always", "off, load, recent"),
        ("speculative:method=parallel:draft=llama-3.2-1b:acceptance=0.8:adaptive=load", "parallel drafts always"),
        ("speculative:draft=opt-125m:acceptance=0.8", "drafts in a vocabulary of"),
    ],
)
def test_mistakes_are_named(technique: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        with_techniques(deployment(), (technique,))


def test_what_it_does_not_go_with_is_named_at_once() -> None:
    engine = {"extends": "vllm", "scheduler": "sarathi", "speculative": {"method": "eagle"}}
    with pytest.raises(SpecError) as caught:
        load_deployment(
            {"model": "llama-3.1-8b", "accelerator": "h100-sxm", "engine": engine, "plan": {"pipeline_parallel": 2}}
        )
    assert "scheduler vllm" in str(caught.value)
    assert "one pipeline stage" in str(caught.value)


def test_the_drafter_takes_memory_of_weights_and_of_every_block() -> None:
    plain = memory_need(deployment())
    drafted = memory_need(deployment(speculative={"draft": "llama-3.2-1b", "acceptance": 0.8}))
    head = memory_need(deployment(speculative={"method": "eagle"}))
    ngram = memory_need(deployment(speculative={"method": "ngram", "acceptance": 0.3}))
    drafter = drafter_of(deployment(speculative={"draft": "llama-3.2-1b", "acceptance": 0.8}))
    assert drafter is not None
    by_name = {row.name: row.bytes for row in drafted.rows}
    assert by_name["weights, drafter"] == pytest.approx(2.0 * drafter.model.parameters(), rel=0.01)
    assert drafted.kv_bytes_per_token - plain.kv_bytes_per_token == drafter.model.kv_bytes_per_token(2.0)
    assert plain.kv_blocks == ngram.kv_blocks > head.kv_blocks > drafted.kv_blocks
    # One of 32 layers is drafted with.
    assert head.kv_bytes_per_token == pytest.approx(plain.kv_bytes_per_token * 33 / 32)


def test_a_run_says_whose_acceptance_it_is_and_what_the_budget_holds() -> None:
    table = request_table([0.0], [64], [4])
    said = " ".join(serve(deployment(speculative={"method": "eagle"}), table).notes)
    assert "chance 0.8 for want of a figure of yours" in said
    assert "EAGLE" in said
    assert "fewer than max_num_seqs" not in said
    wide = {"method": "eagle", "acceptance": 0.7, "draft_tokens": 15}
    said = " ".join(serve(deployment(speculative=wide), table).notes)
    assert "holds 128 requests with 15 drafts each, fewer than max_num_seqs (256)" in said
    assert "for want" not in said


def test_groups_of_ranks_draft_for_their_own_requests() -> None:
    plan_ = {"tensor_parallel": 1, "attention_data_parallel": 8, "expert_parallel": 8, "weight_dtype": "fp8"}
    engine = {"extends": "vllm", "speculative": {"method": "eagle", "draft_tokens": 2}}
    found = load_deployment({"model": "deepseek-v3", "accelerator": "h200-sxm", "plan": plan_, "engine": engine})
    drafter = drafter_of(found)
    assert drafter is not None
    assert drafter.plan.attention_data_parallel == 8
    assert drafter.plan.expert_parallel == 1


def test_parallel_drafting_needs_accelerators_of_its_own() -> None:
    plain = deployment()
    beside = deployment(speculative={"method": "parallel", "draft": "llama-3.2-1b", "acceptance": 0.8})
    assert beside.accelerators == plain.accelerators + 1
    assert deployment_usd_per_h(beside) == pytest.approx(2.0 * deployment_usd_per_h(plain))
    assert memory_need(beside).kv_blocks == memory_need(plain).kv_blocks


def test_layers_of_the_target_draft_for_it() -> None:
    mtp = drafter_of(
        load_deployment(
            {
                "model": "deepseek-v3",
                "accelerator": "h200-sxm",
                "plan": {"tensor_parallel": 8, "expert_parallel": 8, "weight_dtype": "fp8"},
                "engine": {"extends": "vllm", "speculative": {"method": "mtp", "draft_tokens": 1}},
            }
        )
    )
    assert mtp is not None
    assert (mtp.model.layers, mtp.model.moe_layers) == (1, 1)
    assert mtp.plan.weight_dtype == "fp8"
    with pytest.raises(SpecError, match="no dense layer to draft with"):
        deployment({"extends": "qwen3-30b-a3b", "ffn": 0}, {"method": "eagle"})


def test_a_search_keeps_the_technique_and_says_where_it_cannot_be() -> None:
    table = request_table([0.0, 1.0], [64, 64], [4, 40])
    found = plan("llama-3.1-8b", accelerators="h100-sxm", slo="tpot_p99<50ms", workload=table, max_accelerators=2,
                 techniques=["speculative:draft=llama-3.2-1b:acceptance=0.7"])  # fmt: skip
    assert found.pick is not None
    assert found.pick.deployment.engine.speculative is not None
    reasons = [c.reason for c in found.candidates if c.deployment.plan.pipeline_parallel == 2]
    assert reasons
    assert all("one pipeline stage" in reason for reason in reasons)
