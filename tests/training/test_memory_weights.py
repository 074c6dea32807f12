"""A rank's weights against the model's own parameter count."""

from __future__ import annotations

import pytest

from windtunnel.specs.load import load, names
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingPlan
from windtunnel.training.memory_layout import MemoryLayout
from windtunnel.training.memory_stages import stage_load
from windtunnel.training.memory_weights import stage_matrices


def layout(model: ModelSpec, plan: TrainingPlan) -> MemoryLayout:
    return MemoryLayout(
        model=model,
        plan=plan,
        engine="fsdp",
        seq_len=1.0,
        tp=float(plan.tensor_parallel),
        pp=float(plan.pipeline_parallel),
        cp=1.0,
        ep=float(plan.expert_parallel),
        etp=float(plan.expert_tensor),
        virtual=1.0,
        sequences=1.0,
        microbatches=1.0,
        zero_ranks=1.0,
        expert_zero_ranks=1.0,
    )


def values(model: ModelSpec, plan: TrainingPlan, rank: int = 0) -> float:
    load_ = stage_load(model, plan, 8, rank)
    found = stage_matrices(layout(model, plan), load_.dense, load_.sparse, load_.first, load_.last)
    return float(sum(m.values for m in found))


@pytest.mark.parametrize("name", names("models"))
def test_matrices_add_up_to_the_parameters(name: str) -> None:
    model = load("models", name)
    assert values(model, TrainingPlan()) == model.parameters()


@pytest.mark.parametrize("name", ["llama-3-70b", "gpt-3-175b", "deepseek-v3", "qwen3-235b-a22b", "qwen3.5-397b-a17b"])
@pytest.mark.parametrize(("tp", "pp", "ep"), [(8, 1, 1), (1, 4, 1), (2, 4, 1), (1, 4, 8)])
def test_ranks_together_hold_the_model(name: str, tp: int, pp: int, ep: int) -> None:
    """Sharded weights add up to the model; what every rank copies is little."""
    model = load("models", name)
    if model.moe is None and ep > 1:
        return
    plan = TrainingPlan(tensor_parallel=tp, pipeline_parallel=pp, expert_parallel=ep)
    ranks = tp * ep
    held = sum(values(model, plan, rank) for rank in range(pp)) * ranks
    dense = model.parameters() - model.moe_layers * (model.moe.experts if model.moe else 0) * model.expert_parameters()
    copies = (ep - 1) * dense + (model.vocab * model.hidden if model.tied_embeddings and pp > 1 else 0)
    assert held == pytest.approx(model.parameters() + copies, rel=0.04)
