"""Published memory formulas, met exactly where they apply.

Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (arXiv:2205.05198).
Rajbhandari et al., ZeRO (arXiv:1910.02054).
"""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.specs.load import load
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import training_job
from windtunnel.training.memory import account, stage_stacks
from windtunnel.training.memory_layer import kept_bytes, layer_memory
from windtunnel.training.memory_layout import memory_layout
from windtunnel.training.memory_parts import standing
from windtunnel.training.memory_peak import head_kept_bytes, total
from windtunnel.training.memory_stages import live_chunks, stage_load

STANDARD: dict[str, Any] = {"dropout": True, "flash_attention": False, "compute_dtype": "fp16", "weight_dtype": "fp16"}
"""The paper's setting: 16 bits, dropout, scores in memory."""


def gpt_job(name: str = "gpt-3-175b", gpus: int = 64, **plan: Any) -> TrainingJob:
    return training_job(
        name,
        "a100-80g-sxm",
        gpus=gpus,
        global_batch_sequences=256,
        seq_len=2048,
        plan=TrainingPlan(**(STANDARD | plan)),
    )


def layer_units(**plan: Any) -> float:
    """Activation bytes of a layer of GPT-3 over s b h."""
    job = gpt_job(**plan)
    layout = memory_layout(job)
    kept = float(kept_bytes(layout, layer_memory(layout, routed=False)))
    return kept / (job.seq_len * job.plan.micro_batch * job.model.hidden)


SCORES = 5 * 96 * 2048 / 12288
"""5 a s / h of GPT-3 175B."""


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({}, 34 + SCORES),
        ({"tensor_parallel": 8}, 10 + 24 / 8 + SCORES / 8),
        ({"tensor_parallel": 8, "sequence_parallel": True}, 34 / 8 + SCORES / 8),
        ({"tensor_parallel": 8, "sequence_parallel": True, "recompute": "selective"}, 34 / 8),
        ({"tensor_parallel": 8, "recompute": "selective"}, 10 + 24 / 8),
        ({"recompute": "full"}, 2),
        ({"tensor_parallel": 8, "recompute": "full"}, 2),
        ({"micro_batch": 4}, 34 + SCORES),
    ],
)
def test_activation_bytes_of_a_layer(plan: dict[str, Any], expected: float) -> None:
    """Table 2 of arXiv:2205.05198."""
    assert layer_units(**plan) == pytest.approx(expected, rel=1e-12)


def test_table_2_percentages_of_the_baseline() -> None:
    """Figure 7: sequence parallelism and selective recomputation together need about a fifth of the baseline."""
    baseline = layer_units(tensor_parallel=8)
    both = layer_units(tensor_parallel=8, sequence_parallel=True, recompute="selective")
    assert both / baseline == pytest.approx(0.186, abs=0.03)


def test_head_and_embedding_terms() -> None:
    """Section 4.3: 4 s b h / t (1 + v / h) at the head, and s b h p / t of the embedding's dropout mask."""
    job = gpt_job("megatron-gpt-22b", tensor_parallel=8, sequence_parallel=True, fused_kernels=False)
    layout = memory_layout(job)
    s, h, v, t = job.seq_len, job.model.hidden, job.model.vocab, 8
    assert float(head_kept_bytes(layout)) == pytest.approx(4 * s * h / t * (1 + v / h))


@pytest.mark.parametrize(("ranks", "virtual", "micro"), [(8, 3, 64), (4, 2, 8), (16, 6, 128), (8, 1, 64), (8, 2, 3)])
def test_live_microbatches_of_the_first_rank(ranks: int, virtual: int, micro: int) -> None:
    """L (1 + (p - 1) / (p m)) layers of activations on the first rank with m chunks (section 4.2.3)."""
    live = sum(live_chunks("interleaved" if virtual > 1 else "1f1b", ranks, virtual, micro, 0))
    expected = ranks * (1 + (ranks - 1) / (ranks * virtual)) if virtual > 1 else ranks
    assert live / virtual == pytest.approx(min(expected, micro))


def test_live_microbatches_of_other_schedules() -> None:
    assert live_chunks("gpipe", 8, 1, 64, 3) == (64,)
    assert [live_chunks("1f1b", 4, 1, 64, r) for r in range(4)] == [(4,), (3,), (2,), (1,)]
    model = load("models", "gpt-3-175b")
    # DeepSeek-V3, Table 2: DualPipe keeps p + 1 microbatches' worth and two copies of the weights.
    for rank in range(8):
        load_ = stage_load(model, TrainingPlan(pipeline_parallel=8, schedule="dualpipe"), 64, rank)
        assert (load_.live_dense, load_.dense) == (9 * 12, 2 * 12)
    # ZB-H1 keeps the weight-gradient part of as many microbatches as 1F1B frees (arXiv:2401.10241).
    late = stage_load(model, TrainingPlan(pipeline_parallel=8, schedule="zero-bubble"), 64, 7)
    assert (late.live_dense, late.late_dense) == (12, 7 * 12)


def test_weight_gradient_part_of_a_layer() -> None:
    """arXiv:2401.10241, section 3.1: 32 s b h of a layer wait for the weight gradient."""
    job = gpt_job()
    layer = layer_memory(memory_layout(job), routed=False)
    assert float(layer.weight_gradient_bytes) == pytest.approx(32 * job.seq_len * job.model.hidden)


@pytest.mark.parametrize(
    ("name", "pp", "gpus", "batch", "activations_none", "activations_both", "weights"),
    [
        ("gpt-3-175b", 8, 64, 64, 66.84375, 12.3515625, 45.5625),
        ("megatron-530b", 35, 280, 280, 114.0234375, 23.076171875, 31.640625),
    ],
)
def test_figure_1_memory_of_the_first_pipeline_rank(
    name: str, pp: int, gpus: int, batch: int, activations_none: float, activations_both: float, weights: float
) -> None:
    """GiB of the paper's analysis; its weights leave the embedding out, its activations the dropout mask."""
    for extra, expected in (
        ({}, activations_none),
        ({"recompute": "selective", "sequence_parallel": True}, activations_both),
    ):
        plan = TrainingPlan(**(STANDARD | {"tensor_parallel": 8, "pipeline_parallel": pp, "virtual_stages": 3} | extra))
        job = training_job(name, "a100-80g-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=2048, plan=plan)
        stack = stage_stacks(job)[0]
        layout = memory_layout(job)
        first = stage_load(job.model, plan, batch, 0)
        masks = float(first.live_first * layout.rows) * job.model.hidden
        assert (stack.part("activations") - masks) / 2**30 == pytest.approx(expected, rel=1e-3)
        only_layers = standing(layout, stage_load(job.model, plan, batch, 1))
        held = float(total([*only_layers.parts, only_layers.gradients])) / 2**30
        assert held == pytest.approx(weights, rel=0.002)


def bytes_per_parameter(ranks: int, stage: int) -> float:
    """Weights, gradients, master copies and states per parameter under mixed-precision Adam, as ZeRO counts."""
    job = training_job(
        "megatron-gpt-7.5b",
        "v100-32g-sxm",
        gpus=ranks,
        global_batch_sequences=ranks,
        seq_len=1024,
        plan=TrainingPlan(zero_stage=stage, weight_dtype="fp16", compute_dtype="fp16", grad_dtype="fp16"),
        engine="deepspeed",
    )
    held = standing(memory_layout(job), stage_load(job.model, job.plan, job.microbatches, 0))
    return float(total([*held.parts, held.gradients])) / job.model.parameters()


@pytest.mark.parametrize(
    ("ranks", "by_stage_gb"),
    [
        # Table 1 of the ZeRO paper, 7.5B parameters; 64 ranks are its Figure 1.
        (1, (120, 120, 120, 120)),
        (4, (120, 52.5, 41.3, 30)),
        (16, (120, 35.6, 21.6, 7.5)),
        (64, (120, 31.4, 16.6, 1.88)),
        (256, (120, 30.4, 15.4, 0.47)),
        (1024, (120, 30.1, 15.1, 0.12)),
    ],
)
def test_zero_table_1(ranks: int, by_stage_gb: tuple[float, ...]) -> None:
    for stage, expected in enumerate(by_stage_gb):
        assert 7.5 * bytes_per_parameter(ranks, stage) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("mp", "billions"), [(1, (2, 7.6, 14.4, 128)), (2, (4, 15.2, 28.8, 256)), (16, (32, 121.6, 230.4, 2000))]
)
def test_zero_table_2_largest_models(mp: int, billions: tuple[float, ...]) -> None:
    """Largest model in 32 GB a device, 64-way data parallel, by analysis of model states."""
    for stage, expected in enumerate(billions):
        assert mp * 32 / bytes_per_parameter(64, stage) == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize(
    ("model", "tp", "pp", "gpus", "batch"),
    [
        ("megatron-gpt-1.7b", 1, 1, 32, 512),
        ("megatron-gpt-3.6b", 2, 1, 64, 512),
        ("megatron-gpt-7.5b", 4, 1, 128, 512),
        ("megatron-gpt-18b", 8, 1, 256, 1024),
        ("megatron-gpt-39b", 8, 2, 512, 1536),
        ("megatron-gpt-76b", 8, 4, 1024, 1792),
        ("megatron-gpt-145b", 8, 8, 1536, 2304),
        ("megatron-gpt-310b", 8, 16, 1920, 2160),
        ("megatron-530b", 8, 35, 2520, 2520),
        ("megatron-gpt-1t", 8, 64, 3072, 3072),
    ],
)
def test_megatron_table_1_fits_a100_80gb_with_recomputation(
    model: str, tp: int, pp: int, gpus: int, batch: int
) -> None:
    """Narayanan et al. (arXiv:2104.04473), Table 1: what ran on A100-80GB."""
    plan = TrainingPlan(**(STANDARD | {"tensor_parallel": tp, "pipeline_parallel": pp, "recompute": "full"}))
    job = training_job(model, "a100-80g-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=2048, plan=plan)
    assert account(job).fits


@pytest.mark.parametrize(
    ("model", "pp", "virtual", "gpus", "batch", "micro"),
    [
        ("megatron-gpt-22b", 1, 1, 8, 4, 4),
        ("gpt-3-175b", 8, 3, 64, 64, 1),
        ("megatron-530b", 35, 3, 280, 280, 1),
        ("megatron-gpt-1t", 64, 1, 512, 512, 1),
    ],
)
def test_figure_1_fits_and_misfits(model: str, pp: int, virtual: int, gpus: int, batch: int, micro: int) -> None:
    """arXiv:2205.05198, Figure 1: on 80 GB nothing fits as it is; with both techniques all four do."""

    def fits(**extra: Any) -> bool:
        degrees = {"tensor_parallel": 8, "pipeline_parallel": pp, "virtual_stages": virtual, "micro_batch": micro}
        plan = TrainingPlan(**(STANDARD | degrees | extra))
        asked = training_job(
            model, "a100-80g-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=2048, plan=plan, engine="megatron"
        )
        return account(asked).fits

    assert not fits()
    assert fits(sequence_parallel=True, recompute="selective")
