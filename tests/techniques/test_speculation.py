"""The arithmetic of speculation against rounds played out, and its limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.techniques.speculation import (
    acceptance_of,
    expected_tokens,
    parallel_token_s,
    parallel_tokens,
    serial_token_s,
)

chances = st.floats(0.0, 1.0)
lengths = st.integers(1, 16)


def played(acceptance: float, length: int, rounds: int = 200_000) -> float:
    """Tokens per round of PEARL's two modes, token by token."""
    draw = random.Random(0).random
    tokens, judging_drafts = 0, False
    for _ in range(rounds):
        if not judging_drafts:
            tokens += 1
            judging_drafts = draw() < acceptance
            continue
        kept = 0
        while kept < length and draw() < acceptance:
            kept += 1
        judging_drafts = kept == length
        tokens += kept if judging_drafts else kept + 1
    return tokens / rounds


@pytest.mark.parametrize(("acceptance", "length"), [(0.3, 2), (0.6, 5), (0.8, 4), (0.95, 5), (0.9, 1)])
def test_the_closed_form_is_what_rounds_give(acceptance: float, length: int) -> None:
    assert parallel_tokens(acceptance, length) == pytest.approx(played(acceptance, length), rel=0.01)


@given(chances, lengths)
def test_a_round_gives_at_least_one_token_and_never_more_than_it_can(acceptance: float, length: int) -> None:
    assert 1.0 - 1e-9 <= parallel_tokens(acceptance, length) <= length + 1e-9
    assert 1.0 - 1e-9 <= expected_tokens(acceptance, length) <= length + 1 + 1e-9


@given(st.floats(0.01, 0.98), st.integers(2, 12), st.floats(0.01, 0.5))
def test_the_acceptance_is_found_again(acceptance: float, length: int, draft_s: float) -> None:
    token_s = serial_token_s(acceptance, length, draft_s, 1.0)
    found = acceptance_of(token_s, length, draft_s, 1.0)
    assert serial_token_s(found, length, draft_s, 1.0) == pytest.approx(token_s, rel=1e-6)


def test_perfect_drafts_are_bounded_by_the_ratio_of_the_two_models() -> None:
    draft_s, target_s = 1.0, 5.0
    assert target_s / parallel_token_s(1.0, 5, draft_s, target_s) == pytest.approx(5.0)
    assert parallel_token_s(0.0, 5, draft_s, target_s) == pytest.approx(target_s)  # as slow as without drafts
