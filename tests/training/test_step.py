"""The price of a training step: work, accounting, monotony, and agreement of its two forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windtunnel.specs.load import load
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import assembled_job, job_problems, training_job
from windtunnel.training.closed_form import step_seconds
from windtunnel.training.flops import attention_flops_per_token, matmul_parameters, training_flops_per_token
from windtunnel.training.memory_fits import Degrees
from windtunnel.training.step import price


def job(model: str = "llama-3.1-8b", gpus: int = 64, batch: int = 128, seq: int = 4096, **plan: Any) -> TrainingJob:
    return training_job(
        model, "h100-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=seq, plan=TrainingPlan(**plan)
    )


def test_model_flops_are_6n_and_causal_attention() -> None:
    model = job().model
    lookups = model.vocab * model.hidden
    norms = model.layers * model.norm_parameters() + model.hidden
    assert matmul_parameters(model) == model.parameters() - lookups - norms
    exact = sum(4.0 * model.heads * model.head_dim * (i + 1) for i in range(4096)) * model.layers / 4096
    assert attention_flops_per_token(model, 4096) == pytest.approx(exact)
    assert training_flops_per_token(model, 4096) == pytest.approx(6 * matmul_parameters(model) + 3 * exact)


def test_model_flops_of_experts_and_latent_attention() -> None:
    """Of DeepSeek-V3's 671 billion parameters a token meets 37; its attention multiplies 192 and 128 wide."""
    model = load("models", "deepseek-v3")
    met = model.active_parameters() - model.vocab * model.hidden
    assert matmul_parameters(model) == pytest.approx(met, rel=1e-3)
    exact = sum(2.0 * model.heads * (192 + 128) * (i + 1) for i in range(512)) * model.layers / 512
    assert attention_flops_per_token(model, 512) == pytest.approx(exact)


def test_windows_are_counted_exactly() -> None:
    model = load("models", "gpt-oss-120b")
    full = sum(4.0 * 64 * 64 * (i + 1) for i in range(1024)) / 1024
    near = sum(4.0 * 64 * 64 * min(i + 1, 128) for i in range(1024)) / 1024
    assert attention_flops_per_token(model, 1024) == pytest.approx(18 * full + 18 * near)


def test_work_done_is_model_flops_and_the_second_scores() -> None:
    """Without recomputation only FlashAttention's scores are computed again: half a forward pass of attention."""
    priced = price(job())
    again = 0.5 * attention_flops_per_token(priced.job.model, 4096) * priced.job.tokens
    assert priced.hardware_flops == pytest.approx(priced.model_flops + again, rel=1e-9)


@pytest.mark.parametrize(
    "plan",
    [
        {"tensor_parallel": 4, "sequence_parallel": True},
        {"pipeline_parallel": 4, "virtual_stages": 2},
        {"context_parallel": 4},
        {"context_parallel": 4, "context_method": "ulysses"},
        {"zero_stage": 3},
    ],
)
def test_layouts_share_the_same_work(plan: dict[str, Any]) -> None:
    assert price(job(**plan)).hardware_flops == pytest.approx(price(job()).hardware_flops, rel=1e-6)


def test_full_recomputation_adds_a_forward_pass_of_the_layers() -> None:
    plain, again = price(job()), price(job(recompute="full"))
    model = plain.job.model
    layers = 2.0 * (matmul_parameters(model) - model.vocab * model.hidden)
    forward = (layers + attention_flops_per_token(model, 4096)) * plain.job.tokens
    assert again.hardware_flops - plain.hardware_flops == pytest.approx(forward, rel=1e-9)
    half = price(job(recompute="full", recompute_layers=16))
    assert half.parts["recompute"] == pytest.approx(again.parts["recompute"] / 2)


PLANS: list[dict[str, Any]] = [
    {},
    {"tensor_parallel": 8, "sequence_parallel": True, "tp_overlap": True},
    {"tensor_parallel": 2, "pipeline_parallel": 4, "virtual_stages": 2, "zero_stage": 1},
    {"pipeline_parallel": 4, "schedule": "zero-bubble"},
    {"pipeline_parallel": 4, "schedule": "dualpipe"},
    {"pipeline_parallel": 2, "overlap_p2p": False},
    {"zero_stage": 3, "zero_group": 8},
    {"zero_stage": 2, "grad_dtype": "bf16"},
    {"context_parallel": 2, "recompute": "selective", "flash_attention": False},
    {"compute_dtype": "fp8", "zero_stage": 1},
    {"lora_rank": 16},
]


def test_checkpoints_by_operator_repeat_every_second_product() -> None:
    """torchtitan: keys, attention's output and the MLP's up projection are multiplied again, the rest is kept."""
    asked = training_job(
        "llama-3.1-8b",
        "h100-sxm",
        gpus=8,
        global_batch_sequences=8,
        seq_len=4096,
        plan=TrainingPlan(zero_stage=3),
        engine="torchtitan",
    )
    plain, model = price(asked), asked.model
    again = price(asked.model_copy(update={"plan": asked.plan.model_copy(update={"recompute": "selective"})}))
    products = model.hidden * (model.kv_heads * model.head_dim + model.heads * model.head_dim + model.ffn)
    expected = 2.0 * products * model.layers * asked.tokens
    assert again.hardware_flops - plain.hardware_flops == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("plan", PLANS)
def test_parts_add_up_to_the_step(plan: dict[str, Any]) -> None:
    priced = price(job(**plan), timeline=True)
    assert sum(priced.parts.values()) == pytest.approx(priced.seconds)
    assert all(seconds >= -1e-9 for seconds in priced.parts.values())
    for rank in priced.ranks:
        assert sum(rank.parts.values()) == pytest.approx(priced.seconds)
    assert 0.0 < priced.mfu <= priced.hfu < 1.0 or plan.get("lora_rank")
    assert max(run.end_s for run in priced.timeline) <= priced.seconds
    assert sum(rank.layers for rank in priced.ranks) in (32, 64)
    watts = priced.joules / priced.seconds / priced.job.gpus
    assert priced.job.accelerator.idle_w < watts < priced.job.accelerator.max_w + priced.job.node.host_w
    assert priced.usd_per_million_tokens(3.6) == pytest.approx(1000.0 / priced.tokens_per_s_per_gpu)


def test_what_communication_costs() -> None:
    """Exposed communication comes out of streams: overlap hides it, slower links do not."""
    assert price(job(overlap_grad_reduce=False)).seconds > price(job()).seconds
    tensor = {"tensor_parallel": 8, "sequence_parallel": True}
    assert price(job(**tensor)).parts["tensor"] > price(job(**tensor, tp_overlap=True)).parts["tensor"] > 0
    fast = job(zero_stage=3)
    slow = fast.model_copy(update={"node": fast.node.model_copy(update={"nic_bytes_per_s": 3e9})})
    assert price(slow).parts["data"] > 3 * price(fast).parts["data"]
    near = slow.model_copy(update={"plan": slow.plan.model_copy(update={"zero_group": 8})})
    assert price(near).parts["data"] < price(slow).parts["data"]


def test_zero_plus_plus_sends_less() -> None:
    plain = job(zero_stage=3, gpus=128)
    slow = plain.model_copy(update={"node": plain.node.model_copy(update={"nic_bytes_per_s": 3e9})})
    seconds = []
    for update in (
        {},
        {"quantized_weights_comm": True},
        {"quantized_weights_comm": True, "zero_secondary_group": 8},
        {"quantized_weights_comm": True, "zero_secondary_group": 8, "quantized_gradients_comm": True},
    ):
        changed = slow.model_copy(update={"plan": slow.plan.model_copy(update=update)})
        seconds.append(price(changed).seconds)
    assert seconds == sorted(seconds, reverse=True)
    assert len(set(seconds)) == len(seconds)


def test_experts_exchange_tokens() -> None:
    plan = {"expert_parallel": 32, "zero_stage": 1, "moe_overlap": False}
    sizes = {"model": "deepseek-v3", "gpus": 256, "batch": 256}
    plain = price(job(**sizes, **plan))
    assert plain.parts["expert"] > price(job(**sizes, **(plan | {"moe_overlap": True}))).parts["expert"]
    assert plain.parts["expert"] > price(job(**sizes, **plan, moe_dedupe=True)).parts["expert"]
    assert price(job(**sizes, **plan, moe_imbalance=1.5)).seconds > plain.seconds
    inside = price(job(**sizes, **(plan | {"expert_parallel": 8})))
    assert inside.parts["expert"] < plain.parts["expert"]


def test_consecutive_pieces_wait_for_the_last_rank() -> None:
    """(2 - 1 / n) times the even share of attention, and nothing else, is added."""
    even, uneven = price(job(context_parallel=4)), price(job(context_parallel=4, context_balanced=False))
    scores = 3.5 * attention_flops_per_token(even.job.model, 4096) * even.job.tokens
    assert uneven.hardware_flops - even.hardware_flops == pytest.approx(0.75 * scores)
    assert uneven.seconds > even.seconds


def test_ring_and_ulysses_send_what_their_papers_say() -> None:
    ring, heads = price(job(context_parallel=8)), price(job(context_parallel=8, context_method="ulysses"))
    assert heads.parts["context"] > 0
    assert ring.parts["context"] >= 0


@pytest.mark.parametrize(
    ("base", "band"),
    [
        ({"sequence_parallel": True, "zero_stage": 1}, 0.12),
        ({"schedule": "gpipe"}, 0.01),
        ({"schedule": "zero-bubble"}, 0.06),
        ({"zero_stage": 3, "recompute": "full"}, 0.12),
        # A message that nothing hides keeps one of its ends, in both.
        ({"overlap_p2p": False, "zero_stage": 1}, 0.06),
    ],
)
def test_closed_form_agrees_with_the_played_pipeline(base: dict[str, Any], band: float) -> None:
    first = assembled_job("llama-3.1-8b", "h100-sxm", gpus=128, global_batch_sequences=256, seq_len=4096)
    rows, jobs = [], []
    for tp in (1, 4):
        for pp, virtual in ((1, 1), (2, 1), (4, 1), (4, 2), (8, 4)):
            for cp, micro in ((1, 1), (2, 2)):
                if virtual > 1 and base.get("schedule"):
                    continue
                degrees = {
                    "tensor_parallel": tp,
                    "pipeline_parallel": pp,
                    "context_parallel": cp,
                    "virtual_stages": virtual,
                    "micro_batch": micro,
                }
                one = first.model_copy(update={"plan": TrainingPlan(**base, **degrees)})
                if not job_problems(one):
                    rows.append(degrees)
                    jobs.append(one)
    degrees_all = Degrees(gpus=128, **{key: np.array([row[key] for row in rows]) for key in rows[0]})
    shared = first.model_copy(update={"plan": TrainingPlan(**base)})
    closed = step_seconds(shared, degrees_all)
    played = np.array([price(one).seconds for one in jobs])
    assert len(rows) >= 10
    assert np.abs(closed / played - 1.0).max() < band
    assert np.median(np.abs(closed / played - 1.0)) < 0.01


def test_a_large_job_is_priced() -> None:
    large = training_job(
        "llama-3.1-405b",
        "h100-sxm",
        gpus=16384,
        global_batch_sequences=2048,
        seq_len=8192,
        plan=TrainingPlan(
            tensor_parallel=8,
            pipeline_parallel=16,
            virtual_stages=8,
            sequence_parallel=True,
            tp_overlap=True,
            zero_stage=1,
            grad_dtype="bf16",
        ),
    )
    priced = price(large)
    # The Llama 3 paper (arXiv:2407.21783, table 4) reports 41 % on this many accelerators with this batch.
    assert priced.mfu == pytest.approx(0.41, abs=0.05)
