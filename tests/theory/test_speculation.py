"""Speculative decoding against theory: tokens per round, speed-up, and what no draft can do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.draft_surface import drafting_s
from windtunnel.cost.limits import bounds
from windtunnel.cost.surface import context_grid
from windtunnel.report.run_record import run_record
from windtunnel.report.run_text import run_text
from windtunnel.search.serve import Run, serve
from windtunnel.search.within import least_tpot_s
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.speculation import SpeculativeSpec, expected_tokens_of
from windtunnel.techniques.speculation import expected_tokens, parallel_tokens
from windtunnel.workload.table import RequestTable, request_table

DRAFT = {"draft": "llama-3.2-1b", "acceptance": 0.8}
TINY_LIMIT = 4096


def deployment(
    speculative: dict[str, Any] | None = None, model: str = "llama-3.1-70b", **engine: Any
) -> DeploymentSpec:
    settings = {"extends": "vllm", "max_model_len": TINY_LIMIT, **engine}
    if speculative is not None:
        settings["speculative"] = speculative
    plan = {"tensor_parallel": 4 if "70b" in model else 1}
    return load_deployment({"model": model, "accelerator": "h100-sxm", "plan": plan, "engine": settings})


def alone(output: int = 2500) -> RequestTable:
    return request_table(np.zeros(1), np.full(1, 512), np.full(1, output))


def together(n: int, prompt: int = 64, output: int = 200) -> RequestTable:
    return request_table(np.zeros(n), np.full(n, prompt), np.full(n, output))


def served(speculative: dict[str, Any] | None = None, workload: RequestTable | None = None, **options: Any) -> Run:
    return serve(deployment(speculative, **options), workload if workload is not None else alone())


def tokens_per_round(run: Run) -> float:
    s = run.simulation
    return 1.0 + float(s.accepted.sum()) / float(s.draft_rounds.sum())


@pytest.mark.parametrize("acceptance", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("tokens", [2, 5])
def test_a_round_gives_as_many_tokens_as_the_formula_says(acceptance: float, tokens: int) -> None:
    run = served({**DRAFT, "acceptance": acceptance, "draft_tokens": tokens})
    rounds = int(run.simulation.draft_rounds.sum())
    counts = np.arange(tokens + 1)
    chance = np.array([acceptance**n - acceptance ** (n + 1) if n < tokens else acceptance**tokens for n in counts])
    deviation = math.sqrt(float((chance * counts**2).sum() - (chance * counts).sum() ** 2))
    assert tokens_per_round(run) == pytest.approx(
        expected_tokens(acceptance, tokens), abs=4.0 * deviation / math.sqrt(rounds)
    )


def test_parallel_drafting_gives_as_many_tokens_as_its_chain_of_rounds_says() -> None:
    spec = {**DRAFT, "method": "parallel", "draft_tokens": 6}
    s = served(spec, alone(3500)).simulation
    # 1,500 rounds that follow one another: twice the deviation of independent ones is allowed for.
    assert 3500 / s.rounds.sum() == pytest.approx(parallel_tokens(0.8, 6), rel=0.08)
    assert expected_tokens_of(SpeculativeSpec(**spec)) == pytest.approx(parallel_tokens(0.8, 6))


@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen3-32b"])
def test_speed_up_of_one_request_is_tokens_per_round_over_the_ratio_of_costs(model: str) -> None:
    tokens, plain = 4, served(model=model)
    spec = {"draft": "llama-3.2-1b" if "llama" in model else "qwen3-0.6b", "acceptance": 0.8, "draft_tokens": tokens}
    run = served(spec, model=model)
    speed_up = float(plain.simulation.tpot_s[0] / run.simulation.tpot_s[0])

    drafted, alone_ = (step_surface(deployment(given, model)) for given in (spec, None))
    column = int(np.argmin(np.abs(context_grid(TINY_LIMIT) - (512 + 1250))))
    assert drafted.drafting is not None
    draft = drafting_s(drafted.drafting, np.array([[1]]), np.array([[1 + tokens]]), tokens, np.array([column]))
    host = alone_.host_s + alone_.host_request_s
    verify = host + drafted.token_s[1 + tokens] + drafted.decode_s[1, column] + drafted.sample_s[1 + tokens]
    one = host + alone_.token_s[1] + alone_.decode_s[1, column] + alone_.sample_s[1]
    assert speed_up == pytest.approx(tokens_per_round(run) / float((verify + draft[0, 0]) / one), rel=0.01)
    assert speed_up == pytest.approx(expected_tokens(0.8, tokens) / float((verify + draft[0, 0]) / one), rel=0.08)
    assert speed_up > 1.8


def test_every_draft_accepted_gives_all_of_them_and_one_more() -> None:
    run = served({**DRAFT, "acceptance": 1.0, "draft_tokens": 4}, alone(2501))
    assert tokens_per_round(run) == 5.0
    assert run.simulation.rounds.sum() == 1 + 500


@pytest.mark.parametrize(
    "spec",
    [
        {**DRAFT, "acceptance": 0.0},
        {"method": "eagle", "acceptance": 0.0},
        {"method": "medusa", "acceptance": 0.0},
        {"method": "ngram", "acceptance": 0.0},
        {**DRAFT, "method": "parallel", "acceptance": 0.0},
        {**DRAFT, "acceptance": 0.0, "adaptive": "recent"},
    ],
    ids=lambda spec: spec.get("method", "draft-model") + spec.get("adaptive", ""),
)
@pytest.mark.parametrize("requests", [1, 40])
def test_drafts_of_which_none_is_accepted_are_never_faster(spec: dict[str, Any], requests: int) -> None:
    workload = together(requests)
    plain, run = served(None, workload), served(spec, workload)
    assert run.simulation.accepted.sum() == 0
    assert run.simulation.makespan_s >= plain.simulation.makespan_s


def test_speculation_pays_at_low_load_and_costs_at_high_load_and_adapting_does_neither() -> None:
    """The crossover of arXiv:2406.14066 (figure 1): drafts compete for compute once the batch fills it."""
    spec = {"draft": "llama-3.2-1b", "acceptance": 0.6, "draft_tokens": 5}
    few, many = together(2, 64, 200), together(256, 64, 200)
    options: dict[str, Any] = {"model": "llama-3.1-8b", "max_num_batched_tokens": 4096}
    seconds = {
        (name, load): served(given, workload, **options).simulation.makespan_s
        for name, given in (("plain", None), ("fixed", spec), ("load", {**spec, "adaptive": "load"}))
        for load, workload in (("few", few), ("many", many))
    }
    assert seconds["fixed", "few"] < 0.9 * seconds["plain", "few"]
    assert seconds["fixed", "many"] > 1.1 * seconds["plain", "many"]
    assert seconds["load", "many"] < 0.95 * seconds["fixed", "many"]
    assert seconds["load", "many"] <= 1.05 * seconds["plain", "many"]
    assert seconds["load", "few"] <= 1.02 * seconds["fixed", "few"]
    off = served({**spec, "disable_above": 8}, many, **options)
    assert off.simulation.makespan_s < seconds["fixed", "many"]


def test_a_tree_accepts_more_than_a_chain_of_its_depth() -> None:
    chain = served({"method": "eagle", "draft_tokens": 3, "acceptance": 0.6})
    tree = served({"method": "eagle", "draft_tokens": 3, "tree": [3, 2, 1], "candidate_acceptance": [0.6, 0.15, 0.1]})
    expected = 1 + 0.85 + 0.85 * 0.75 + 0.85 * 0.75 * 0.6
    assert tokens_per_round(tree) == pytest.approx(expected, rel=0.05)
    assert tokens_per_round(tree) > tokens_per_round(chain)
    drafted = int(tree.simulation.drafted.sum())
    assert drafted <= (3 + 6 + 6) * int(tree.simulation.draft_rounds.sum())


def test_a_run_says_what_drafts_did() -> None:
    run = served({**DRAFT, "draft_tokens": 4}, together(4))
    figures, s = run.metrics.speculation, run.simulation
    assert figures is not None
    assert figures["draft_acceptance"] == s.accepted.sum() / s.drafted.sum()
    assert figures["tokens_per_round"] == tokens_per_round(run) == run.metrics.value("tokens_per_round")
    assert 0.1 < figures["drafting_share"] < 0.3
    record = run_record(run)["metrics"]
    assert record["speculation"]["drafted_tokens"] == s.drafted.sum()
    assert "drafted tokens accepted" in run_text(run)
    plain = served(None, together(4))
    assert plain.metrics.speculation is None
    assert "drafted" not in run_text(plain)


def test_requests_may_differ_in_how_much_they_accept() -> None:
    spec = SpeculativeSpec(draft="llama-3.2-1b", acceptance=0.7, acceptance_deviation=0.2)
    firsts = np.array([one[0] for one in spec.classes])
    assert firsts.mean() == pytest.approx(0.7)
    assert firsts.std() == pytest.approx(0.2, rel=0.03)
    alike, differing = (
        served({**DRAFT, "acceptance": 0.7, "acceptance_deviation": deviation}, together(64, 64, 200))
        for deviation in (0.0, 0.2)
    )
    assert np.ptp(differing.simulation.tpot_s) > 1.5 * np.ptp(alike.simulation.tpot_s)
    # Those that accept less have more rounds, so that a share over rounds is below the mean over requests.
    assert tokens_per_round(differing) < expected_tokens_of(spec)


def test_lengths_that_follow_the_last_rounds_beat_fixed_ones_where_requests_differ() -> None:
    """A fixed length drafts too little for some and too much for others; both cost once compute counts."""
    spec = {"draft": "llama-3.2-1b", "acceptance": 0.55, "acceptance_deviation": 0.35, "draft_tokens": 6}
    options: dict[str, Any] = {"model": "llama-3.1-8b", "max_num_batched_tokens": 4096}
    many = together(192, 64, 200)
    fixed, recent = (
        served({**spec, "adaptive": adaptive}, many, **options).simulation for adaptive in ("off", "recent")
    )
    assert recent.makespan_s < 0.97 * fixed.makespan_s
    assert recent.accepted.sum() / recent.drafted.sum() > fixed.accepted.sum() / fixed.drafted.sum()


@pytest.mark.parametrize(
    "spec",
    [None, {**DRAFT, "acceptance": 1.0}, {"method": "eagle", "acceptance": 1.0}, {**DRAFT, "method": "parallel"}],
    ids=["none", "draft-model", "eagle", "parallel"],
)
def test_bounds_hold_with_every_draft_accepted(spec: dict[str, Any] | None) -> None:
    run = served(spec, together(1, 64, 2001))
    found = deployment(spec)
    tpot_s = float(run.simulation.tpot_s[0])
    assert bounds(found, 64, 2001).tpot_s < tpot_s
    assert least_tpot_s(step_surface(found)) < tpot_s
    assert 1.0 / bounds(found, 64, 2001).request_rate_per_s < run.simulation.makespan_s
