"""The KV cache: content is found, shared, counted and evicted."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.surface import linear_surface
from windtunnel.serving import kv_cache, state
from windtunnel.serving.jit import DISABLED, mix, rows
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import request_table

CACHING = SchedulerSettings(16, 256, 2000, 400, block_size=16, enable_prefix_caching=True)


@numba.njit
def _play(blocks: Any, mask: int, program: Any, answers: Any) -> None:
    """Insert (0), forget (1) or find (2) a (key, block) after another."""
    for i in range(len(program)):
        what, key, block = program[i]
        if what == 0 and blocks[block].key == 0:
            kv_cache.insert(blocks, mask, key, block)
        elif what == 1:
            kv_cache.forget(blocks, mask, block)
        answers[i] = kv_cache.find(blocks, mask, key)


@numba.njit
def _mixed(pairs: Any, out: Any) -> None:
    for i in range(len(pairs)):
        out[i] = mix(pairs[i, 0], pairs[i, 1])


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(1, 7)), max_size=60))
def test_the_table_finds_the_oldest_block_of_a_content(program: list[tuple[int, int, int]]) -> None:
    blocks = np.zeros(16, dtype=state.BLOCK)
    # Keys 1..12 crowd into few places of the table, so that runs of collisions form and break.
    table = np.array([(what, 16 * (key // 3) + key % 3 + 14, block) for what, key, block in program] or [(2, 1, 1)])
    answers = np.zeros(len(table), dtype=np.int64)
    _play(rows(blocks), 15, table, answers)
    held: dict[int, int] = {}
    order: OrderedDict[int, None] = OrderedDict()
    for (what, key, block), answer in zip(table.tolist(), answers.tolist(), strict=True):
        if what == 0 and block not in held:
            held[block] = key
            order[block] = None
        elif what == 1 and block in held:
            del held[block], order[block]
        assert answer == next((b for b in order if held[b] == key), 0)


def test_hashes_spread_and_do_not_depend_on_compilation() -> None:
    draw = np.random.default_rng(0)
    pairs = draw.integers(-(2**62), 2**62, size=(2000, 2))
    pairs[:500] = draw.integers(0, 40, size=(500, 2))
    out = np.zeros(len(pairs), dtype=np.int64)
    _mixed(pairs, out)
    expected = []
    for a, b in pairs.tolist():
        x = (a + 0x9E3779B97F4A7C15 * b) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        expected.append((x - 2**64 if x >= 2**63 else x) or 1)
    assert out.tolist() == expected
    assert len(set(expected)) == len({tuple(p) for p in pairs.tolist()})
    assert bool(numba.config.DISABLE_JIT) == DISABLED


def test_equal_prefixes_are_computed_once() -> None:
    offset, ids, tokens = [0, 2, 4, 6], [7, 1, 7, 2, 7, 3], [100, 50, 100, 50, 90, 60]
    workload = request_table([0.0, 1.0, 2.0], [150] * 3, [4] * 3, segments=(offset, ids, tokens))
    result = run(workload, linear_surface(0.01), CACHING)
    # 100 common tokens are six full blocks; the third prompt leaves the content after 90.
    assert result.cached_tokens.tolist() == [0, 96, 80]
    assert result.prefix_queries == 450
    assert result.prefix_hits == 176


def test_a_session_finds_its_own_answer() -> None:
    workload = request_table(
        [0.0, 0.0], [40, 40 + 30 + 20], [30, 5], after=[-1, 0],
        segments=([0, 1, 4], [5, 5, 1000, 6], [40, 40, 30, 20]), output_id=[1000, 1001],
    )  # fmt: skip
    result = run(workload, linear_surface(0.01), CACHING)
    # 40 + 30 tokens, of which the last was never computed: four full blocks of 16.
    assert result.cached_tokens.tolist() == [0, 64]


def test_a_prompt_found_whole_computes_its_last_block_again() -> None:
    workload = request_table([0.0, 1.0], [64, 64], [2, 2], segments=([0, 1, 2], [3, 3], [64, 64]))
    assert run(workload, linear_surface(0.01), CACHING).cached_tokens.tolist() == [0, 48]


def test_the_least_recently_used_content_goes_first() -> None:
    few = SchedulerSettings(1, 256, 2000, 10, block_size=16, enable_prefix_caching=True)
    contents = [1, 2, 1, 3, 1, 2]  # four full blocks each, nine in all: 3 pushes out 2, not 1
    n = len(contents)
    workload = request_table(np.arange(n) * 1.0, [64] * n, [2] * n, segments=(np.arange(n + 1), contents, [64] * n))
    result = run(workload, linear_surface(0.01), few)
    assert result.cached_tokens.tolist() == [0, 0, 48, 0, 48, 0]


def test_without_a_description_nothing_is_shared() -> None:
    workload = request_table([0.0, 1.0], [64, 64], [2, 2])
    assert run(workload, linear_surface(0.01), CACHING).prefix_hits == 0
