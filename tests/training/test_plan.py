"""Layouts that do not fit are refused with the number that is wrong and the nearest that would do."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import SpecError
from windtunnel.specs.training import TrainingPlan, chunk_layers
from windtunnel.specs.training_check import training_job


def refusal(model: str = "llama-3.1-8b", gpus: int = 64, batch: int = 128, seq: int = 4096, **plan: Any) -> str:
    with pytest.raises(SpecError) as caught:
        training_job(model, "h100-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=seq, plan=TrainingPlan(**plan))
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tensor_parallel": 3}, "32 query heads, got 3; allowed: 2 or 4"),
        ({"gpus": 60, "tensor_parallel": 8}, "must divide the accelerators, got 60; allowed: 56 or 64"),
        ({"batch": 32}, "fewer sequences than the 64 data-parallel ranks, got 32; allowed: at least 64"),
        ({"batch": 100}, "must divide the global batch, got 100; allowed: 64 or 128"),
        ({"seq": 4095, "context_parallel": 2}, "must divide seq_len, got 4095; allowed: 4092 or 4096"),
        ({"expert_parallel": 8}, "has no experts to spread, got 8; allowed: 1"),
        ({"pipeline_parallel": 64, "batch": 64}, "exceeds the model's 32 layers, got 64"),
        ({"zero_stage": 3, "zero_group": 24}, "(DP x CP), got 24; allowed: 16 or 32"),
        ({"zero_stage": 2, "zero_secondary_group": 8}, "needs ZeRO stage 3"),
        ({"context_parallel": 64, "context_method": "ulysses"}, "(Ulysses) must divide the model's 32 query heads"),
        ({"pipeline_parallel": 4, "virtual_stages": 2, "batch": 96}, "multiple of PP 4, got 96; allowed: 64 or 128"),
        ({"pipeline_parallel": 8, "schedule": "dualpipe", "batch": 64}, "at least twice PP 8, got 64; allowed: 128"),
        ({"pipeline_parallel": 3, "schedule": "dualpipe", "gpus": 48}, "must be even, got 3; allowed: 2 or 4"),
        ({"model": "mixtral-8x7b", "expert_parallel": 3}, "8 experts, got 3; allowed: 2 or 4"),
        ({"pipeline_parallel": 2, "stage_layers": (10, 10)}, "allowed: entries that add up to 32"),
    ],
)
def test_what_does_not_divide_is_named(given: dict[str, Any], words: str) -> None:
    assert words in refusal(**given)


def test_formats_need_their_units() -> None:
    plan = TrainingPlan(compute_dtype="fp8")
    with pytest.raises(SpecError, match="a100-80g-sxm does not compute in this format, got fp8; allowed: bf16"):
        training_job("llama-3.1-8b", "a100-80g-sxm", gpus=8, global_batch_sequences=8, seq_len=1024, plan=plan)


def test_all_mistakes_are_reported_together() -> None:
    text = refusal(tensor_parallel=3, expert_parallel=2, gpus=64)
    assert len(text.splitlines()) >= 3


@pytest.mark.parametrize("plan", [{"virtual_stages": 2}, {"pipeline_parallel": 2, "stage_layers": (32,)}])
def test_plans_at_odds_with_themselves(plan: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TrainingPlan(**plan)


def test_layers_are_dealt_out() -> None:
    assert chunk_layers(8, TrainingPlan(pipeline_parallel=4)) == ((2,), (2,), (2,), (2,))
    held = chunk_layers(126, TrainingPlan(pipeline_parallel=16, virtual_stages=8))
    assert sum(map(sum, held)) == 126
    assert held[0][0] == 0
    assert held[15][7] == 0
    uneven = chunk_layers(61, TrainingPlan(pipeline_parallel=4, virtual_stages=4))
    assert sum(map(sum, uneven)) == 61
    assert uneven[3][3] == 3
    assert chunk_layers(7, TrainingPlan(pipeline_parallel=2, stage_layers=(4, 3))) == ((4,), (3,))
