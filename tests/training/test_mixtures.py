"""What recipes of mixtures of experts change: dispatch, fused experts, biases, sinks, and layers that look ahead."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.operators.training_layer import layer_phases
from windtunnel.specs.training import TrainingJob, TrainingPlan, chunk_layers
from windtunnel.specs.training_check import training_job
from windtunnel.training.closed_form import step_seconds
from windtunnel.training.flops import matmul_parameters, training_flops_per_token
from windtunnel.training.layouts import layouts_of
from windtunnel.training.memory import account
from windtunnel.training.memory_fits import Degrees
from windtunnel.training.step import price


def job(model: str = "qwen3-30b-a3b", gpus: int = 8, **plan: object) -> TrainingJob:
    fields: dict[str, object] = {"expert_parallel": 8, "zero_stage": 1, "micro_batch": 2} | plan
    return training_job(
        model,
        "h100-sxm",
        gpus=gpus,
        global_batch_sequences=128,
        seq_len=4096,
        plan=TrainingPlan.model_validate(fields),
    )


def names(one: TrainingJob) -> set[str]:
    phases = layer_phases(one.model, layouts_of(one).microbatch(), routed=True)
    return {op.name for op in phases.forward.compute}


def test_a_fused_dispatch_sends_a_token_once_per_rank() -> None:
    """Eight draws among eight ranks meet 8 (1 - (7/8)^8) = 5.25 different ones."""
    micro = layouts_of(job(moe_fused_dispatch=True)).microbatch()
    assert float(np.asarray(micro.sent_share)) == pytest.approx(1.0 - (7.0 / 8.0) ** 8)
    assert float(np.asarray(layouts_of(job()).microbatch().sent_share)) == 1.0
    assert {"dispatch copies", "combine copies"} <= names(job())
    assert not {"dispatch copies", "combine copies"} & names(job(moe_fused_dispatch=True))


def test_nodes_are_deduplicated_in_the_same_way() -> None:
    """A node's copies with and without one copy per rank add up to the same bytes between nodes."""
    fused = layouts_of(job(gpus=64, expert_parallel=64, moe_fused_dispatch=True)).microbatch()
    nodes = layouts_of(job(gpus=64, expert_parallel=64, moe_dedupe=True)).microbatch()
    product = float(np.asarray(fused.sent_share)) * float(np.asarray(fused.dedupe))
    assert product == pytest.approx(float(np.asarray(nodes.dedupe)))
    assert float(np.asarray(nodes.dedupe)) == pytest.approx(8 / 8 * (1 - (7 / 8) ** 8))


def test_fused_experts_drop_the_passes_between_their_products() -> None:
    assert "activation" in names(job())
    assert "activation" not in names(job(moe_fused_experts=True))
    assert price(job(moe_fused_experts=True)).seconds < price(job()).seconds


def test_expert_biases_and_clamps_are_passes_of_their_own() -> None:
    plain, fused = job("gpt-oss-20b"), job("gpt-oss-20b", moe_fused_experts=True)
    assert {"clamp", "scaled bias"} <= names(plain)
    assert not {"clamp", "scaled bias"} & names(fused)
    assert not {"clamp", "scaled bias"} & names(job())


def test_slow_sinks_compute_what_lies_outside_the_window() -> None:
    fast, slow = job("gpt-oss-20b"), job("gpt-oss-20b", fused_sinks=False)
    assert price(slow).seconds > price(fast).seconds
    flops = [
        sum(op.flops for op in layer_phases(one.model, layouts_of(one).microbatch(), routed=True).forward.compute
            if op.name == "attention")
        for one in (fast, slow)
    ]  # fmt: skip
    assert flops[1] > 1.5 * flops[0]
    assert price(job(fused_sinks=False)).seconds == price(job()).seconds


def test_a_layer_that_looks_ahead_costs_a_layer_and_a_head() -> None:
    plain, ahead = job(), job(mtp_layers=1)
    h, model = plain.model.hidden, plain.model
    layer = (matmul_parameters(model) - model.vocab * h) / model.layers
    more = training_flops_per_token(model, 4096, mtp_layers=1) - training_flops_per_token(model, 4096)
    scores = 3 * 2 * model.heads * 2 * model.head_dim * 4097 / 2
    assert more == pytest.approx(6 * (layer + 2 * h * h + model.vocab * h) + scores)
    assert price(ahead).seconds > price(plain).seconds * (1 + 0.9 * more / training_flops_per_token(model, 4096) / 2)
    assert account(ahead).total_bytes > account(plain).total_bytes


@pytest.mark.parametrize(("ranks", "chunks"), [(2, 8), (4, 4), (16, 1), (8, 4)])
def test_layers_that_look_ahead_make_room_at_the_end(ranks: int, chunks: int) -> None:
    """DeepSeek-V3's 61 layers as Megatron-Bridge lays them out: Et*4|(t*4|)*14tmL, or Et|(tt|)*30mL."""
    plan = TrainingPlan(pipeline_parallel=ranks, virtual_stages=chunks, mtp_layers=1)
    held = chunk_layers(61, plan)
    each = 64 // (ranks * chunks)
    assert sum(map(sum, held)) == 61
    assert held[-1][-1] == max(each - 3, 0)
    assert held[0][0] == each - max(3 - each, 0)
    assert set(sum(held[1:-1], ())) <= {each}


def test_the_stash_copies_what_experts_keep() -> None:
    plain, stashed = job(compute_dtype="fp8"), job(compute_dtype="fp8", moe_paged_stash=True)
    ops = layer_phases(stashed.model, layouts_of(stashed).microbatch(), routed=True).forward.compute
    found = next(op for op in ops if op.name == "stash")
    rows, width = 2 * 4096 * 8, stashed.model.moe.expert_ffn  # type: ignore[union-attr]
    kept = rows * (stashed.model.hidden + width + 2 * 2 * width)
    assert float(np.asarray(found.moved_bytes)) == pytest.approx(2 * kept)
    assert price(stashed).seconds > price(plain).seconds


def test_the_host_converts_experts_one_by_one_in_narrow_formats() -> None:
    """Six products an expert and layer, two of them forward; none in 16 bits, with fused experts or whole graphs."""
    narrow = layer_phases(job().model, layouts_of(job(compute_dtype="fp8")).microbatch(), routed=True)
    held = 128 / 8
    assert float(np.asarray(narrow.forward.by_expert)) == 2 * held
    total = narrow.forward.by_expert + narrow.input_gradient.by_expert + narrow.weight_gradient.by_expert
    assert float(np.asarray(total)) == 6 * held
    wide = layer_phases(job().model, layouts_of(job()).microbatch(), routed=True)
    assert float(np.asarray(wide.forward.by_expert)) == 0
    slow = price(job(compute_dtype="fp8", micro_batch=1)).seconds
    assert price(job(compute_dtype="fp8", micro_batch=1, cuda_graphs=True)).seconds < slow


@pytest.mark.parametrize(("engine", "last"), [("megatron", True), ("torchtitan", False), ("fsdp", False)])
def test_full_recomputation_may_stop_before_the_last_product(engine: str, last: bool) -> None:
    asked = training_job(
        "llama-3.1-8b",
        "h100-sxm",
        gpus=8,
        global_batch_sequences=8,
        seq_len=4096,
        plan=TrainingPlan(zero_stage=3, recompute="full"),
        engine=engine,  # type: ignore[arg-type]
    )
    again = {
        op.name for op in layer_phases(asked.model, layouts_of(asked).microbatch(), routed=False).recompute.compute
    }
    assert ("mlp down" in again) == last
    assert {"mlp up", "attention", "qkv"} <= again


@pytest.mark.parametrize(("ranks", "chunks"), [(1, 1), (2, 8), (4, 4), (16, 1), (8, 4)])
def test_the_closed_form_makes_the_same_room(ranks: int, chunks: int) -> None:
    plan = TrainingPlan(pipeline_parallel=ranks, virtual_stages=chunks, expert_parallel=16, zero_stage=1, mtp_layers=1)
    asked = training_job("deepseek-v3", "h100-sxm", gpus=256, global_batch_sequences=4096, seq_len=4096, plan=plan)
    degrees = Degrees(
        gpus=256,
        pipeline_parallel=np.array([ranks]),
        virtual_stages=np.array([chunks]),
        expert_parallel=np.array([16]),
        tensor_parallel=np.array([1]),
        context_parallel=np.array([1]),
        micro_batch=np.array([1]),
    )
    assert float(step_seconds(asked, degrees)[0]) == pytest.approx(price(asked).seconds, rel=0.05)
