"""Fits and misfits that papers on memory-efficient optimisers publish."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import training_job
from windtunnel.training.memory import account

PURE: dict[str, Any] = {"grad_dtype": "bf16", "master_weights": False}
"""Weights, gradients and states in bf16, as GaLore, APOLLO and FRUGAL pre-train."""


def job(model: str, device: str, *, gpus: int = 1, seq_len: int = 256, **plan: Any) -> TrainingJob:
    micro = plan.get("micro_batch", 1)
    return training_job(
        model,
        device,
        gpus=gpus,
        global_batch_sequences=gpus * micro,
        seq_len=seq_len,
        plan=TrainingPlan(**plan),
        engine="fsdp",
    )


def test_apollo_mini_pretrains_7b_in_12_gb_with_8_bit_weights() -> None:
    """arXiv:2412.05270: LLaMA-7B on one GPU in less than 12 GB, weights quantised, gradients layer by layer."""
    stack = account(
        job(
            "llama-7b",
            "rtx-4090",
            **PURE,
            weight_dtype="int8",
            optimizer="apollo-mini",
            layerwise_update=True,
            recompute="full",
        )
    )
    assert 8e9 < stack.total_bytes < 12e9


def test_galore_pretrains_7b_in_24_gb_and_adamw_does_not() -> None:
    """arXiv:2403.03507: LLaMA-7B on an RTX 4090 with 8-bit GaLore, gradients layer by layer; AdamW needs 58 GB."""
    galore = account(job("llama-7b", "rtx-4090", **PURE, optimizer="galore", layerwise_update=True, recompute="full"))
    assert galore.total_bytes < 25e9
    adamw = account(job("llama-7b", "rtx-4090", **PURE, optimizer="adamw", seq_len=2048))
    assert adamw.total_bytes == pytest.approx(58e9, rel=0.15)


def test_apollo_pretrains_13b_with_plain_data_parallelism_and_adamw_does_not() -> None:
    """arXiv:2412.05270: LLaMA-13B with naive DDP on A100-80GB."""
    plan = PURE | {"recompute": "full"}
    assert account(job("llama-13b", "a100-80g-sxm", gpus=8, **plan, optimizer="apollo", optimizer_rank=256)).fits
    assert account(job("llama-13b", "a100-80g-sxm", gpus=8, **plan, optimizer="apollo-mini")).fits
    assert not account(job("llama-13b", "a100-80g-sxm", gpus=8, **plan, optimizer="adamw")).fits


def largest_batch(**plan: Any) -> int:
    """Most sequences of 1,024 tokens a microbatch of LLaMA-7B on an A100-80GB, gradients accumulated."""
    found = 0
    for micro in range(1, 33):
        asked = training_job(
            "llama-7b",
            "a100-80g-sxm",
            gpus=8,
            global_batch_sequences=16 * micro,
            seq_len=1024,
            plan=TrainingPlan(**PURE, **plan, micro_batch=micro),
            engine="fsdp",
        )
        found = micro if account(asked).fits else found
    return found


def test_apollo_leaves_room_for_batches_several_times_larger() -> None:
    """arXiv:2412.05270 states four times AdamW's batch on 8 x A100-80GB; memory alone gives more than twice."""
    adamw = largest_batch(optimizer="adamw")
    apollo = largest_batch(optimizer="apollo", optimizer_rank=256, layerwise_update=True)
    assert 4 <= adamw < 8
    assert 2 < apollo / adamw <= 4


def test_8_bit_states_make_the_1_5b_model_finetunable_in_24_gb() -> None:
    """arXiv:2110.02861, Table 2: batch size one, 24 GB: 1.5B parameters with 8-bit Adam, less with 32-bit Adam."""
    plan: dict[str, Any] = {"weight_dtype": "fp32", "compute_dtype": "fp32", "master_weights": False}
    assert account(job("gpt2-xl", "rtx-3090", **plan, optimizer="adamw-8bit", seq_len=512)).fits
    assert not account(job("gpt2-xl", "rtx-3090", **plan, optimizer="adamw", seq_len=512)).fits


def test_deepseek_v3_fits_80_gb_with_its_own_storage_formats() -> None:
    """arXiv:2412.19437, sections 3.1 to 3.3: 2,048 H800, PP 16, EP 64, ZeRO-1, DualPipe, no tensor parallelism."""

    def fits(**formats: Any) -> bool:
        plan = TrainingPlan(
            pipeline_parallel=16,
            expert_parallel=64,
            zero_stage=1,
            schedule="dualpipe",
            compute_dtype="fp8",
            recompute="selective",
            recompute_modules=("norm", "latent_up", "activation"),
            **formats,
        )
        asked = training_job(
            "deepseek-v3", "h100-sxm", gpus=2048, global_batch_sequences=15360, seq_len=4096, plan=plan
        )
        return account(asked).fits

    assert fits(weight_dtype="fp8", state_dtype="bf16", narrow_activations=True)
    assert not fits()
