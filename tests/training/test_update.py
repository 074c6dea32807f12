from __future__ import annotations

from typing import Any

import pytest

from windtunnel.specs.training import TrainingPlan
from windtunnel.specs.training_check import training_job
from windtunnel.training.optimizers import Matrix
from windtunnel.training.update import UpdateWork, product_flops, update_work


def work(gpus: int = 1, **plan: Any) -> UpdateWork:
    job = training_job(
        "llama-7b",
        "a100-80g-sxm",
        gpus=gpus,
        global_batch_sequences=gpus,
        seq_len=1024,
        plan=TrainingPlan(**plan),
    )
    return update_work(job)


def test_mixed_precision_adam_touches_thirty_bytes_a_parameter() -> None:
    """fp32 gradients read, master copy and two states both ways, 16-bit weights written: 4 + 8 + 16 + 2."""
    # Megatron-LM pads the vocabulary of 32,000 to a multiple of 128, which it is.
    assert float(work().bytes) == pytest.approx(30 * 6_738_415_616)
    assert float(work(8, zero_stage=1).bytes) == pytest.approx(30 * 6_738_415_616 / 8)


def test_smaller_states_are_less_to_move() -> None:
    adam, small = work(optimizer="adamw"), work(optimizer="adamw-8bit")
    assert 0.5 < float(small.bytes / adam.bytes) < 0.65
    assert float(adam.flops) == 0


def test_products_of_an_update() -> None:
    matrix = Matrix("w", "linear", 10, 20)
    assert product_flops("muon", matrix) == 5 * (4 * 10 * 10 * 20 + 2 * 10**3)
    assert product_flops("apollo-mini", matrix) == 2 * 200
    assert product_flops("muon", Matrix("e", "embedding", 10, 20)) == 0
    # A share of a training step: 6 FLOP a parameter and token.
    tokens = 512 * 1024
    assert float(work(optimizer="muon").flops) < 0.05 * 6 * 6.7e9 * tokens
