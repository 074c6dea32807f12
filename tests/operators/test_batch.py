from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windtunnel.operators.batch import Batch, causal_pairs, decode_batch, prefill_batch, windowed_pairs


@given(st.integers(0, 60), st.integers(1, 60), st.integers(1, 70))
def test_pairs_are_those_counted_one_by_one(start: int, length: int, window: int) -> None:
    assert causal_pairs(start, length) == sum(start + i + 1 for i in range(length))
    assert windowed_pairs(start, length, window) == sum(min(start + i + 1, window) for i in range(length))


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 500))
def test_a_prompt_in_chunks_computes_the_same_pairs(a: int, b: int, window: int) -> None:
    whole = prefill_batch([(0, a + b)], window)
    parts = prefill_batch([(0, a)], window, last=False) + prefill_batch([(a, b)], window)
    assert parts.prefill_pairs == whole.prefill_pairs
    assert parts.prefill_window_pairs == whole.prefill_window_pairs
    assert parts.prefill_tokens == whole.prefill_tokens
    assert parts.sampled == whole.sampled == 1


def test_batches_add_up() -> None:
    batch = decode_batch(3, 1000, 128) + prefill_batch([(100, 50)], 128)
    assert batch.tokens == 53
    assert batch.requests == 4
    assert batch.decode_window_tokens == 3 * 128
    assert batch.prefill_context_tokens == 150
    assert batch + Batch() == batch
