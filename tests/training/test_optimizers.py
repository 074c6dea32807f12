"""States of optimisers by matrix shape, as their papers state them."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.specs.training import Optimizer
from windtunnel.training.optimizers import Matrix, optimizer_facts, rank_of, state_bytes, workspace_bytes

M, N = 4096, 11008
LINEAR = Matrix("mlp up", "linear", M, N)
EMBEDDING = Matrix("embedding", "embedding", 32000, M)
VECTOR = Matrix("norm", "vector", 1, M)


def values(optimizer: Optimizer, matrix: Matrix = LINEAR, rank: int = 0) -> float:
    return float(state_bytes(optimizer, matrix, rank=rank, value_bytes=1.0))


def test_catalogue_knows_every_optimiser() -> None:
    assert set(optimizer_facts()) == set(get_args(Optimizer))


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adamw", 2 * M * N),
        ("sgd", 0),
        ("sgd-momentum", M * N),
        ("lion", M * N),
        ("muon", M * N),
        ("adafactor", M + N),
        # arXiv:2403.03507, Table 1: m r + 2 n r; arXiv:2412.05270, Table 1: 2 n r + 2 and 2 n + 2.
        ("galore", M * 1024 + 2 * N * 1024),
        ("apollo", 2 * N * 1024 + 2),
        ("apollo-mini", 2 * N + 2),
        ("cosmos", M * N + 64 * (M + N) + 64 * 64),
        ("frugal", 2 * M * N / 4),
    ],
)
def test_state_formulas(optimizer: Optimizer, expected: float) -> None:
    assert values(optimizer) == pytest.approx(expected, rel=1e-12)


def test_a_given_rank_replaces_the_papers_own() -> None:
    assert values("apollo", rank=256) == 2 * N * 256 + 2
    assert values("galore", rank=128) == (M + 2 * N) * 128
    assert values("apollo-mini", rank=256) == 2 * N + 2


def test_8_bit_states_take_two_bytes_and_block_scales() -> None:
    """arXiv:2110.02861: blocks of 2048 values share an fp32 scale; embeddings keep 32-bit states."""
    assert state_bytes("adamw-8bit", LINEAR) == pytest.approx(M * N * 2 * (1 + 4 / 2048))
    assert state_bytes("adamw-8bit", EMBEDDING) == state_bytes("adamw", EMBEDDING)


@pytest.mark.parametrize("optimizer", ["apollo", "apollo-mini", "galore", "frugal", "cosmos", "muon"])
def test_what_is_not_a_layers_matrix_keeps_adamw(optimizer: Optimizer) -> None:
    for matrix in (EMBEDDING, VECTOR):
        assert state_bytes(optimizer, matrix) == state_bytes("adamw", matrix)


@given(
    optimizer=st.sampled_from(sorted(get_args(Optimizer))),
    rows=st.integers(2, 9000),
    cols=st.integers(2, 9000),
    count=st.integers(1, 90),
)
def test_states_scale_with_count_and_do_not_care_which_side_is_longer(
    optimizer: Optimizer, rows: int, cols: int, count: int
) -> None:
    one = float(state_bytes(optimizer, Matrix("w", "linear", rows, cols)))
    turned = float(state_bytes(optimizer, Matrix("w", "linear", cols, rows)))
    many = float(state_bytes(optimizer, Matrix("w", "linear", rows, cols, count)))
    assert one == pytest.approx(turned)
    assert many == pytest.approx(count * one)
    assert math.isfinite(one)
    assert one >= 0
    assert float(rank_of("galore", Matrix("w", "linear", rows, cols), 4096)) <= min(rows, cols)


def test_arrays_give_what_scalars_give() -> None:
    tp = np.array([1.0, 2.0, 8.0])
    for optimizer in get_args(Optimizer):
        matrix = Matrix("w", "linear", M, N / tp)
        together = np.asarray(state_bytes(optimizer, matrix)) + np.asarray(workspace_bytes(optimizer, matrix))
        for i, t in enumerate(tp):
            alone = Matrix("w", "linear", M, N / t)
            assert together[i] == pytest.approx(
                float(state_bytes(optimizer, alone) + workspace_bytes(optimizer, alone))
            )
