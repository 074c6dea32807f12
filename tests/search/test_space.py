"""The space of plans: whole, without doubles, and open about what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.search.question import Question
from windtunnel.search.space import Unit, units
from windtunnel.specs.load import resolve
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import request_table


def _units(model: str, *accelerators: str, most: int = 8, **changes: Any) -> list[Unit]:
    given: dict[str, Any] = {
        "model": resolve("models", model),
        "workload": request_table([0.0, 1.0], [900, 1500], [100, 200]),
        "slo": parse_slo("ttft_p99<2s"),
        "accelerators": tuple(resolve("accelerators", name) for name in accelerators),
        "max_accelerators": most,
        "engine": resolve("engines", "vllm"),
    }
    return list(units(Question(**{**given, **changes})))


def _key(unit: Unit) -> tuple[object, ...]:
    d = unit.deployment
    return (d.accelerator.name, d.plan, d.engine.max_num_batched_tokens)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gpt-oss-120b", "deepseek-v3", "qwen3-30b-a3b"])
@pytest.mark.parametrize("most", [1, 6, 16])
def test_no_unit_twice_and_none_too_large(model: str, most: int) -> None:
    found = _units(model, "h100-sxm", "l40s", "mi300x", most=most)
    assert len({_key(unit) for unit in found}) == len(found) > 0
    for unit in found:
        plan = unit.deployment.plan
        assert plan.replicas == 1
        assert plan.accelerators <= most
        assert plan.tensor_parallel <= unit.deployment.node.accelerators
        assert unit.deployment.engine.max_num_batched_tokens >= unit.deployment.engine.max_num_seqs


def test_layouts_formats_and_budgets_are_all_there() -> None:
    plans = {
        (d.plan.tensor_parallel, d.plan.pipeline_parallel, d.plan.weight_dtype, d.plan.kv_dtype)
        for d in (unit.deployment for unit in _units("llama-3.1-8b", "h100-sxm", most=4))
    }
    assert {(tp, pp) for tp, pp, _, _ in plans} == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)}
    assert {(w, kv) for _, _, w, kv in plans} == {("bf16", "bf16"), ("fp8", "bf16"), ("fp8", "fp8")}
    budgets = {u.deployment.engine.max_num_batched_tokens for u in _units("llama-3.1-8b", "h100-sxm", most=1)}
    assert budgets == {2048, 8192}


def test_experts_may_be_spread_and_only_experts() -> None:
    assert {u.deployment.plan.expert_parallel for u in _units("llama-3.1-8b", "h100-sxm")} == {1}
    assert {u.deployment.plan.expert_parallel for u in _units("mixtral-8x7b", "h100-sxm")} == {1, 2, 4, 8}


def test_context_is_what_occurs_rounded_up() -> None:
    assert {u.deployment.max_model_len for u in _units("llama-3.1-8b", "l4", most=1)} == {2048}


def test_every_layout_that_does_not_divide_is_named() -> None:
    found = _units("gpt2-xl", "h100-sxm", most=8)  # 25 heads
    wrong = [unit for unit in found if unit.deployment.plan.tensor_parallel > 1]
    assert wrong
    assert all("must divide the model's 25 query heads" in unit.problem for unit in wrong)
    assert all(f"plan.tensor_parallel {unit.deployment.plan.tensor_parallel}: " in unit.problem for unit in wrong)
    assert all(unit.problem == "" for unit in found if unit not in wrong and unit.deployment.plan.weight_dtype != "fp8")


def test_several_problems_of_a_unit_are_all_named() -> None:
    found = [u for u in _units("gpt2-xl", "t4", most=2) if u.deployment.plan.weight_dtype == "fp8"]
    both = [unit.problem for unit in found if unit.deployment.plan.tensor_parallel == 2]
    assert both
    assert all("25 query heads" in text and "does not compute in this format" in text for text in both)


@pytest.mark.parametrize(("model", "native"), [("gpt-oss-120b", "mxfp4"), ("deepseek-v3", "fp8")])
def test_a_quantised_model_is_not_blown_up(model: str, native: str) -> None:
    assert {u.deployment.plan.weight_dtype for u in _units(model, "h200-sxm")} == {native}


def test_fp8_weights_are_expanded_where_the_device_cannot_multiply_them() -> None:
    on_ampere = {u.deployment.plan for u in _units("llama-3.1-8b", "a100-80g-sxm", most=1) if not u.problem}
    assert {(p.weight_dtype, p.matmul_dtype, p.kv_dtype) for p in on_ampere} == {
        ("bf16", "bf16", "bf16"),
        ("fp8", "bf16", "bf16"),
    }
    assert all("does not compute" in u.problem for u in _units("llama-3.1-8b", "mi250-gcd", precisions=("fp8",)))


def test_half_precision_is_what_the_device_has() -> None:
    found = _units("llama-3.1-8b", "v100-32g-sxm", precisions=("bf16",))
    assert {u.deployment.plan.weight_dtype for u in found} == {"fp16"}
    assert {u.deployment.plan.matmul_dtype for u in found} == {"fp16"}
