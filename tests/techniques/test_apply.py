"""Techniques: pure, checked together, refused with a reason where they do not go together."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from windtunnel.api import catalogue, plan, simulate
from windtunnel.errors import SpecError
from windtunnel.search.question import Question
from windtunnel.search.space import units
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.slo import parse_slo
from windtunnel.techniques.apply import with_techniques
from windtunnel.techniques.registry import TECHNIQUES
from windtunnel.workload.table import request_table

NAMES = tuple(TECHNIQUES)


@pytest.fixture(scope="module")
def plain() -> DeploymentSpec:
    return load_deployment({"model": "llama-3.1-8b", "accelerator": "a100-80g-sxm"})


@pytest.mark.parametrize("name", NAMES)
def test_a_technique_changes_a_copy_and_says_where_it_comes_from(name: str, plain: DeploymentSpec) -> None:
    before = plain.model_dump()
    changed = with_techniques(plain, (name,))
    assert plain.model_dump() == before
    assert changed.model_dump() != {**before, "techniques": (name,)}  # more than its name is new
    assert changed.techniques == (name,)
    technique = TECHNIQUES[name]
    assert technique.citation
    assert technique.url.startswith("https://")
    assert technique.changes


@pytest.mark.parametrize("name", NAMES)
def test_twice_is_once(name: str, plain: DeploymentSpec) -> None:
    once = with_techniques(plain, (name,))
    assert with_techniques(once) == once


@pytest.mark.parametrize("pair", list(combinations(NAMES, 2)), ids="+".join)
def test_pairs_combine_in_any_order_or_are_refused_with_a_reason(pair: tuple[str, str], plain: DeploymentSpec) -> None:
    one, other = (TECHNIQUES[name] for name in pair)
    clash = (one.kind and one.kind == other.kind) or other.name in one.conflicts or one.name in other.conflicts
    if clash:
        with pytest.raises(SpecError, match="cannot be combined: "):
            with_techniques(plain, pair)
        return
    there, back = with_techniques(plain, pair), with_techniques(plain, pair[::-1])
    assert there.engine == back.engine
    assert there.plan == back.plan


def test_knobs_reach_the_deployment(plain: DeploymentSpec) -> None:
    changed = with_techniques(plain, ("sarathi:budget=640", "finequant:bits=8"))
    assert changed.engine.max_num_batched_tokens == 640
    assert changed.engine.scheduler == "sarathi"
    assert changed.plan.weight_dtype == "int8"
    assert changed.plan.matmul_dtype in ("fp16", "bf16")


def test_every_mistake_is_told_at_once(plain: DeploymentSpec) -> None:
    asked = ("sarati", "splitfuse:bugdet=3", "finequant:bits=5", "sarathi:budget=many")
    with pytest.raises(SpecError) as caught:
        with_techniques(plain, asked, "--technique")
    said = str(caught.value)
    assert "did you mean 'sarathi'?" in said
    assert "did you mean 'budget'?" in said
    assert "finequant:bits: is out of range, got '5'; allowed: 4, 8" in said
    assert "sarathi:budget" in said
    assert "splitfuse and sarathi cannot be combined" in said
    assert len(caught.value.problems) == 5


def test_a_deployment_runs_with_the_techniques_that_it_names() -> None:
    given = {"model": "llama-3.1-8b", "accelerator": "a100-80g-sxm", "techniques": ["static-batching:batch=2"]}
    table = request_table([0.0, 0.0], [64, 64], [4, 40])
    served = simulate(load_deployment(given), table)
    finish = served.simulation.finish_s
    assert finish[0] == finish[1]  # a static batch ends together
    usual = simulate(load_deployment({**given, "techniques": []}), table).simulation.finish_s
    assert usual[0] < usual[1]


def test_a_search_tries_candidates_that_a_technique_makes_alike_only_once(plain: DeploymentSpec) -> None:
    table = request_table([0.0, 1.0], [64, 64], [4, 40])
    question = Question(plain.model, table, parse_slo("tpot_p99<50ms"), (plain.accelerator,), 1, plain.engine)
    usual = [unit.deployment for unit in units(question)]
    changed = [unit.deployment for unit in units(replace(question, techniques=("sarathi", "finequant")))]
    assert len(usual) == 4  # bf16 and fp8 weights, two token budgets each
    assert len(changed) == 1
    assert changed[0].plan.weight_dtype == "int4"
    assert changed[0].engine.max_num_batched_tokens == 512


def test_the_library_searches_with_techniques_and_lists_them() -> None:
    table = request_table([0.0, 1.0], [64, 64], [4, 40])
    found = plan("llama-3.1-8b", accelerators="a100-80g-sxm", slo="tpot_p99<50ms", workload=table,
                 max_accelerators=1, techniques=["finequant"])  # fmt: skip
    assert found.pick is not None
    assert found.pick.deployment.plan.weight_dtype == "int4"
    with pytest.raises(SpecError, match="did you mean 'finequant'"):
        plan("llama-3.1-8b", accelerators="a100-80g-sxm", slo="tpot_p99<50ms", workload=table, techniques=["finquant"])
    assert "sarathi" in catalogue("techniques")
    assert {"sarathi", "zero"} <= set(catalogue("papers"))
