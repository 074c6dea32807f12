"""Sparse attention of one layer counted by hand, for GLM-5's shape, and how it grows with the context."""

from __future__ import annotations

import pytest

from windtunnel.operators.batch import Batch, decode_batch, prefill_batch
from windtunnel.operators.expand import expand
from windtunnel.operators.operator import Operator
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

GLM = resolve("models", "glm-5")
TOPK = 2048
PLAN = PlanSpec(tensor_parallel=8, weight_dtype="fp8", kv_dtype="fp8")


def by_name(batch: Batch, plan: PlanSpec = PLAN) -> dict[str, Operator]:
    found = expand(GLM, plan, batch)
    return {one.name: one for one in found}


def test_projections_of_the_index_are_whole_on_every_rank() -> None:
    tokens = 7
    for plan in (PLAN, PLAN.model_copy(update={"tensor_parallel": 1})):
        ops = by_name(decode_batch(tokens, 100, TOPK), plan)
        assert ops["index q"].flops == 2 * tokens * 2048 * (32 * 128)
        assert ops["index key and weights"].flops == 2 * tokens * 6144 * (128 + 32)
        assert ops["index key write"].write_bytes == tokens * (128 + 4)
        assert ops["index quantise"].read_bytes == 2 * ops["index quantise"].write_bytes == tokens * 33 * 128 * 2
    assert {one.count for name, one in ops.items() if name.startswith("index")} == {78}


def test_decode_scores_the_context_and_attends_to_the_chosen() -> None:
    ops = by_name(decode_batch(3, 10_000, TOPK))
    scores, choice, attention = ops["index scores"], ops["index choice"], ops["decode attention"]
    assert scores.flops == 2 * 32 * 128 * 30_000
    assert scores.stored_bytes == 30_000 * 132
    assert scores.write_bytes == 4 * 30_000
    assert choice.write_bytes == 3 * TOPK * 4
    assert attention.flops == 2 * 8 * (512 + 64 + 512) * 3 * TOPK
    assert attention.stored_bytes == 3 * TOPK * 576
    assert (scores.part, choice.part, attention.part) == ("decode", "decode", "decode_window")


def test_a_context_within_topk_is_read_whole() -> None:
    attention = by_name(decode_batch(3, 500, TOPK))["decode attention"]
    assert attention.stored_bytes == 3 * 500 * 576


@pytest.mark.parametrize("context", [TOPK, 2 * TOPK, 64 * TOPK])
def test_beyond_topk_only_the_index_grows(context: int) -> None:
    short, long = by_name(decode_batch(5, TOPK, TOPK)), by_name(decode_batch(5, context, TOPK))
    work = [{name: (one.flops, one.moved_bytes) for name, one in ops.items()} for ops in (short, long)]
    grown = {name for name in short if work[0][name] != work[1][name]}
    assert grown == ({"index scores", "index choice"} if context > TOPK else set())
    assert long["index scores"].flops == short["index scores"].flops * context / TOPK


def test_drafted_tokens_choose_latents_of_their_own() -> None:
    one, four = (by_name(decode_batch(2, 9000, TOPK).with_drafts(n)) for n in (0, 3))
    assert four["index scores"].flops == 4 * one["index scores"].flops
    assert four["index scores"].stored_bytes == one["index scores"].stored_bytes
    assert four["decode attention"].stored_bytes == 4 * one["decode attention"].stored_bytes


def test_prompts_attend_in_the_latent_space_to_what_their_tokens_choose() -> None:
    chunk = prefill_batch([(0, 4096)], TOPK)
    ops = by_name(chunk)
    attended = TOPK * (TOPK + 1) // 2 + (4096 - TOPK) * TOPK
    assert chunk.prefill_window_pairs == attended
    assert ops["prefill attention, sparse"].flops == 2 * 8 * (512 + 64 + 512) * attended
    assert ops["index scores"].flops == 2 * 32 * 128 * 4096 * 4097 // 2
    assert ops["index scores"].stored_bytes == 4096 * 132
    assert ops["absorb keys"].flops == 2 * 4096 * 8 * 192 * 512
    assert ops["absorb values"].flops == 2 * 4096 * 8 * 512 * 256
    assert "kv up" not in ops
