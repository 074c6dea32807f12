"""Drafts in the scheduler: conservation, determinism, compiled as plain, and what each setting does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product, takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.memory import memory_need
from windtunnel.cost.surface import StepSurface, linear_surface
from windtunnel.errors import SpecError
from windtunnel.metrics.gaps import token_gaps_s
from windtunnel.search.evaluate import settings_of
from windtunnel.search.serve import serve
from windtunnel.serving.drafting import Drafting
from windtunnel.serving.plain import mix
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.serving.speculation import composes_ahead, drafting_from
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.speculation import SpeculativeSpec
from windtunnel.testing import SURFACE, random_workload, run_violations
from windtunnel.workload.table import RequestTable, request_table

CHAIN = Drafting(tokens=3, acceptance=(0.8, 0.6, 0.4), lookahead=3, slots=1)
KINDS: dict[str, Drafting] = {
    "chain": CHAIN,
    "tree": Drafting(tokens=9, acceptance=(0.8, 0.5), lookahead=9),
    "by-load": replace(CHAIN, by_load=tuple(tuple(max(0, 3 - n // 3 + o) % 4 for o in range(5)) for n in range(9))),
    "recent": replace(CHAIN, recent=True),
    "agreeing": Drafting(tokens=3, acceptance=(0.8, 0.64, 0.5, 0.4), agreeing=True),
    "classes": replace(CHAIN, classes=((0.9, 0.8, 0.7), (0.3, 0.1, 0.0), (1.0, 1.0, 1.0))),
    "head": replace(CHAIN, slots=0, drop_block=True),
}
ROOMY = SchedulerSettings(8, 128, 400, 400, 8, drafting=CHAIN)
TIGHT = SchedulerSettings(8, 128, 400, 60, 8, drafting=CHAIN)
COLUMNS = ("first_token_s", "finish_s", "preemptions", "steps", "tokens", "drafted", "accepted", "rounds", "dynamic_j")


def same(one: Simulation, other: Simulation) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in COLUMNS)


def served(
    limits: SchedulerSettings, workload: RequestTable, surface: StepSurface = SURFACE, **options: Any
) -> Simulation:
    return run(workload, surface, limits, record_steps=True, **options)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("ahead", [False, True], ids=["in-turn", "ahead"])
def test_tokens_and_blocks_are_conserved_and_runs_are_the_same_compiled_or_not(kind: str, ahead: bool) -> None:
    if ahead and kind in ("recent", "agreeing"):
        pytest.skip("drafts that follow the last outcome cannot be composed ahead")
    preempted = 0
    for seed in range(2):
        workload = random_workload(np.random.default_rng([seed, 5]))
        for limits in (ROOMY, TIGHT):
            for prefix in (False, True):
                limits = replace(limits, drafting=KINDS[kind], async_scheduling=ahead, enable_prefix_caching=prefix)
                one = served(limits, workload, seed=seed)
                assert not list(run_violations(one))
                assert same(one, served(limits, workload, seed=seed))
                preempted += int(one.preemptions.sum())
                if seed == 0 and limits.num_blocks == TIGHT.num_blocks:
                    assert same(one, served(limits, workload, seed=seed, compiled=False))
    assert preempted > 0


@given(
    st.integers(0, 2**31),
    st.integers(1, 6),
    st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_random_drafting_conserves_tokens(
    seed: int, tokens: int, chances: list[float], ahead: bool, tight: bool
) -> None:
    drafting = Drafting(tokens=tokens, acceptance=tuple(np.cumprod(chances[:tokens]).tolist()), lookahead=tokens)
    limits = replace(TIGHT if tight else ROOMY, drafting=drafting, async_scheduling=ahead)
    one = served(limits, random_workload(np.random.default_rng(seed)), seed=seed)
    assert not list(run_violations(one))


def test_the_seed_decides_and_threads_do_not() -> None:
    workload = random_workload(np.random.default_rng(3))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: served(ROOMY, workload, seed=11), range(4)))
    assert all(same(both[0], other) for other in both[1:])
    assert not same(both[0], served(ROOMY, workload, seed=12))


def test_what_a_request_accepts_does_not_depend_on_its_neighbours() -> None:
    alone = request_table(np.zeros(1), np.full(1, 24), np.full(1, 100))
    among = request_table(np.zeros(6), np.full(6, 24), np.full(6, 100))
    one, six = served(ROOMY, alone), served(ROOMY, among)
    assert one.step_table is not None
    assert six.step_table is not None
    first = six.step_table.entry_request == 0
    assert int(first.sum()) == len(one.step_table)


def test_nothing_accepted_and_everything_accepted() -> None:
    workload = request_table(np.zeros(2), np.full(2, 24), np.full(2, 61))
    none = served(replace(ROOMY, drafting=replace(CHAIN, acceptance=())), workload)
    full = served(replace(ROOMY, drafting=replace(CHAIN, acceptance=(1.0, 1.0, 1.0))), workload)
    assert none.accepted.sum() == 0
    assert len(none.step_table or ()) == 61
    assert len(full.step_table or ()) == 1 + 15
    assert full.drafted.sum() == full.accepted.sum() == 2 * 15 * 3


def test_gaps_between_tokens_are_those_between_rounds() -> None:
    workload = request_table(np.zeros(2), np.full(2, 24), np.full(2, 61))
    full = served(replace(ROOMY, drafting=replace(CHAIN, acceptance=(1.0, 1.0, 1.0))), workload)
    assert len(token_gaps_s(full)) == 2 * 15


def test_recent_lengths_grow_with_success_and_shrink_without() -> None:
    workload = request_table(np.zeros(1), np.full(1, 24), np.full(1, 120))
    recent = Drafting(tokens=7, recent=True)
    none = served(replace(ROOMY, drafting=recent), workload)
    steps = none.step_table
    assert steps is not None
    assert steps.tokens[1:9].tolist() == [8, 7, 6, 5, 4, 3, 2, 2]
    full = served(replace(ROOMY, drafting=replace(recent, acceptance=(1.0,) * 7)), workload)
    assert full.step_table is not None
    assert set(full.step_table.tokens[1:-1].tolist()) == {8}


def test_lengths_follow_requests_and_context() -> None:
    by_load = ((3, 1), (3, 1), (2, 0))
    drafting = replace(CHAIN, acceptance=(), by_load=by_load)
    one = served(
        replace(ROOMY, drafting=drafting), request_table(np.zeros(1), np.full(1, 20), np.full(1, 30))
    ).step_table
    two = served(
        replace(ROOMY, drafting=drafting), request_table(np.zeros(2), np.full(2, 20), np.full(2, 30))
    ).step_table
    assert one is not None
    assert two is not None
    assert one.tokens[2] == 4  # a short context: three drafts
    assert one.tokens[-2] == 2  # beyond 32 tokens: one
    assert two.tokens[2] == 2 * 3
    assert two.tokens[-2] == 2


def test_drafts_beside_the_target_are_there_only_when_it_agreed() -> None:
    workload = request_table(np.zeros(1), np.full(1, 24), np.full(1, 4000))
    limits = replace(ROOMY, max_model_len=5000, num_blocks=1000, drafting=KINDS["agreeing"])
    steps = served(limits, workload).step_table
    assert steps is not None
    tokens = steps.tokens[1:-1]
    assert set(tokens.tolist()) == {1, 4}
    before, after = tokens[:-1], tokens[1:]
    assert float((after[before == 1] == 4).mean()) == pytest.approx(0.8, abs=0.08)
    assert float((after[before == 4] == 4).mean()) == pytest.approx(0.4, abs=0.08)


def test_settings_come_from_the_deployment() -> None:
    engine = {"extends": "vllm", "max_model_len": 2048, "async_scheduling": True}

    def of(spec: dict[str, Any]) -> SchedulerSettings:
        found = load_deployment(
            {"model": "llama-3.1-8b", "accelerator": "h100-sxm", "engine": {**engine, "speculative": spec}}
        )
        return settings_of(found, memory_need(found), step_surface(found))

    eagle = of({"method": "eagle", "draft_tokens": 3})
    assert eagle.drafting == Drafting(tokens=3, acceptance=(0.8, 0.8**2, 0.8 * 0.8 * 0.8), lookahead=3, drop_block=True)
    assert eagle.async_scheduling
    ngram = of({"method": "ngram", "acceptance": 0.4})
    assert not ngram.async_scheduling
    assert ngram.drafting is not None
    assert ngram.drafting.lookahead == 0
    above = of({"method": "eagle", "disable_above": 4}).drafting
    assert above is not None
    assert [row[0] for row in above.by_load[:7]] == [4, 4, 4, 4, 4, 0, 0]
    assert drafting_from(SpeculativeSpec(draft="llama-3.2-1b", acceptance=0.5, one_pass=True)).slots == 4
    plain = load_deployment({"model": "llama-3.1-8b", "accelerator": "h100-sxm", "engine": engine})
    assert composes_ahead(plain.engine)


def test_a_surface_without_drafts_is_refused() -> None:
    found = load_deployment({"model": "llama-3.1-8b", "accelerator": "h100-sxm"})
    surface = step_surface(found.model_copy(update={"engine": found.engine.model_copy(update={"max_model_len": 400})}))
    with pytest.raises(SpecError, match="without drafts"):
        run(random_workload(np.random.default_rng(0)), surface, ROOMY)
    with pytest.raises(SpecError, match="without asynchronous scheduling and drafts"):
        replace(ROOMY, scheduler="sarathi")
    assert run(random_workload(np.random.default_rng(0)), linear_surface(1e-3), ROOMY).finished.all()


def drawn(drafting: Drafting, seed: int, request: int, sample: int) -> int:
    """What the kernel draws, written down once more."""
    number = ((mix(mix(seed + 1, request), sample) >> 11) & 0x1FFFFFFFFFFFFF) / 2.0**53
    return sum(1 for _ in takewhile(lambda chance: number < chance, drafting.acceptance))


@pytest.mark.parametrize("ahead", [False, True], ids=["in-turn", "ahead"])
def test_a_drawn_run_is_the_replay_of_its_outcomes(ahead: bool) -> None:
    """Replays of listed outcomes are checked step by step against the real scheduler (tests/crosscheck)."""
    for seed, limits in product(range(3), (ROOMY, TIGHT)):
        workload = random_workload(np.random.default_rng([seed, 9]))
        limits = replace(limits, async_scheduling=ahead, enable_prefix_caching=seed % 2 == 1)
        outcomes = tuple(tuple((drawn(CHAIN, seed, i, n), -1) for n in range(300)) for i in range(len(workload)))
        listed = replace(limits, drafting=replace(CHAIN, acceptance=(), outcomes=outcomes))
        assert same(served(limits, workload, seed=seed), served(listed, workload, seed=seed))


def test_scheduling_ahead_hides_the_host_of_a_deployment() -> None:
    def tpot_s(**settings_: Any) -> float:
        given = {"extends": "vllm", "max_model_len": 2048, **settings_}
        found = load_deployment({"model": "llama-3.1-8b", "accelerator": "h100-sxm", "engine": given})
        return float(serve(found, request_table(np.zeros(1), np.full(1, 64), np.full(1, 400))).simulation.tpot_s[0])

    engine = load_deployment({"model": "llama-3.1-8b", "accelerator": "h100-sxm"}).engine
    hidden = tpot_s() - tpot_s(async_scheduling=True)
    assert hidden == pytest.approx(engine.step_host_s + engine.request_host_s, rel=0.02)
    drafts = {"method": "eagle", "acceptance": 0.0}
    hidden = tpot_s(speculative=drafts) - tpot_s(speculative=drafts, async_scheduling=True)
    assert hidden == pytest.approx(engine.step_host_s + engine.request_host_s, rel=0.05)
