"""The cost of drafts as tables: verification, the drafter's passes, how many tokens are worth drafting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.steps import price_step
from windtunnel.cost.surface import StepSurface, context_grid
from windtunnel.operators.batch import decode_batch
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import drafter_of

LIMIT = 4096
DRAFT = {"draft": "llama-3.2-1b", "acceptance": 0.7}


def deployment(spec: dict[str, Any] | None, model: str = "llama-3.1-8b", tp: int = 1, **engine: Any) -> DeploymentSpec:
    given = {"extends": "vllm", "max_model_len": LIMIT, **engine, **({"speculative": spec} if spec else {})}
    return load_deployment(
        {"model": model, "accelerator": "h100-sxm", "plan": {"tensor_parallel": tp}, "engine": given}
    )


def surface(spec: dict[str, Any] | None, **options: Any) -> StepSurface:
    return step_surface(deployment(spec, **options))


def at(context: int) -> int:
    return int(np.argmin(np.abs(context_grid(LIMIT) - context)))


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-12b", "deepseek-v2-lite"])
def test_verification_costs_more_than_one_token_and_less_than_as_many_steps(model: str) -> None:
    plain = surface(None, model=model)
    ngram = surface({"method": "ngram", "acceptance": 0.3, "draft_tokens": 3}, model=model)
    n = np.arange(1, 65)
    assert np.array_equal(ngram.token_s, plain.token_s)
    assert len(ngram.sample_s) > len(plain.sample_s)
    assert np.array_equal(ngram.sample_s[: len(plain.sample_s)], plain.sample_s)
    for tables in ((ngram.decode_s, plain.decode_s), (ngram.decode_window_s, plain.decode_window_s)):
        if tables[1].size:
            assert np.all(tables[0][n] >= tables[1][n])
            assert np.all(tables[0][n] <= 4.0 * tables[1][n])


def test_the_drafters_passes_cost_what_its_steps_cost() -> None:
    found = surface({**DRAFT, "draft_tokens": 3}, model="llama-3.1-70b", tp=4).drafting
    drafter = drafter_of(deployment({**DRAFT, "draft_tokens": 3}, model="llama-3.1-70b", tp=4))
    assert found is not None
    assert drafter is not None
    assert drafter.plan.tensor_parallel == 4
    for requests in (1, 16, 200):
        step = price_step(drafter, decode_batch(requests, int(context_grid(LIMIT)[at(1000)])))
        one = found.further_s[requests] + found.further_decode_s[requests, at(1000)]
        assert one == pytest.approx(step.device_s, rel=1e-6)
        first = found.token_s[requests] + found.head_s[requests]
        assert first < one  # attention comes on top
        assert found.decode_s[requests, at(1000)] >= found.further_decode_s[requests, at(1000)]


def test_a_drafter_on_one_rank_is_slower_than_on_all() -> None:
    shared, alone = (
        surface({**DRAFT, "draft_tensor_parallel": degree}, model="llama-3.1-70b", tp=4).drafting for degree in (0, 1)
    )
    assert shared is not None
    assert alone is not None
    assert shared.further_s[64] < alone.further_s[64]


def test_one_pass_drafts_sooner_than_several_and_heads_need_no_attention() -> None:
    chain, at_once = (surface({**DRAFT, "one_pass": one}).drafting for one in (False, True))
    heads = surface({"method": "medusa"}).drafting
    assert chain is not None
    assert at_once is not None
    assert heads is not None
    assert (chain.passes, at_once.passes, heads.passes) == (4, 1, 1)
    assert len(at_once.head_s) == 4 * 256 + 1
    assert heads.token_s.size == heads.decode_s.size == 0


def test_fewer_tokens_are_drafted_the_more_requests_there_are_and_more_the_longer_their_context() -> None:
    spec = {"draft": "llama-3.2-1b", "acceptance": 0.7, "draft_tokens": 6, "adaptive": "load"}
    found = surface(spec, max_num_batched_tokens=4096).drafting
    assert found is not None
    lengths = found.lengths
    assert lengths.shape == (257, (len(context_grid(LIMIT)) - 1) // 8)
    assert lengths[1, 0] > lengths[64, 0] >= lengths[256, 0]
    assert np.all(lengths[128:, -1] >= lengths[128:, 0])
    assert lengths[128:, -1].mean() > lengths[128:, 0].mean()


def test_lengths_do_not_move_with_the_ends_of_the_costs_intervals() -> None:
    spec = {"draft": "llama-3.2-1b", "acceptance": 0.7, "adaptive": "load"}
    low, middle, high = (step_surface(deployment(spec), at=end) for end in (-1.0, 0.0, 1.0))
    assert low.drafting is not None
    assert middle.drafting is not None
    assert high.drafting is not None
    assert np.array_equal(low.drafting.lengths, middle.drafting.lengths)
    assert np.array_equal(high.drafting.lengths, middle.drafting.lengths)
    assert low.drafting.further_s[8] < middle.drafting.further_s[8] < high.drafting.further_s[8]


def test_where_no_drafts_are_made_a_step_costs_as_without() -> None:
    plain, above = surface(None), surface({**DRAFT, "disable_above": 16})
    assert np.array_equal(above.decode_s[17:], plain.decode_s[17:])
    assert np.all(above.decode_s[1:17] >= plain.decode_s[1:17])


def test_accelerators_of_the_drafters_own_draw_power_at_all_times() -> None:
    spec = {**DRAFT, "method": "parallel", "draft_tensor_parallel": 2}
    found = deployment(spec)
    assert step_surface(found).static_w == pytest.approx(3 * found.accelerator.idle_w)
    assert surface(None).static_w == pytest.approx(found.accelerator.idle_w)
