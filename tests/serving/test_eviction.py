"""Orders of eviction of the prefix cache: what they keep, and what holds for all of them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from scenarios import digest, random_workload, small_surface
from windtunnel.cost.surface import linear_surface
from windtunnel.errors import SpecError
from windtunnel.serving.jit import DISABLED
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import SchedulerSettings, run
from windtunnel.serving.settings import EVICTIONS, Eviction
from windtunnel.workload.table import RequestTable, request_table

OTHERS = tuple(name for name in EVICTIONS if name != "lru")
ONE = SchedulerSettings(1, 512, 512, 33, 16, enable_prefix_caching=True)


def random_cached_run(eviction: Eviction, seed: int, scheduler: str = "vllm", compiled: bool = False) -> Simulation:
    draw = random.Random(seed)
    settings = SchedulerSettings(
        draw.choice([1, 3, 16]), 64, 200, draw.choice([200, 400]) // 4 + 2, 4,
        enable_prefix_caching=True, eviction=eviction, scheduler=scheduler,
    )  # fmt: skip
    workload = random_workload(draw, linked=draw.random() < 0.3, shared=True)
    return run(workload, small_surface(), settings, replicas=draw.choice([1, 2]), record_steps=True, compiled=compiled)


def prefixes(contents: list[int], prefix: int = 128, own: int = 16, gap_s: float = 1.0) -> RequestTable:
    """Requests one after another, each a known prefix and a part of its own."""
    n = len(contents)
    ids = np.stack([np.array(contents), 1000 + np.arange(n)], axis=1).ravel()
    return request_table(
        np.arange(n) * gap_s,
        np.full(n, prefix + own),
        np.ones(n),
        segments=(2 * np.arange(n + 1), ids, [prefix, own] * n),
    )


def hits(workload: RequestTable, eviction: Eviction, settings: SchedulerSettings = ONE) -> int:
    limits = replace(settings, eviction=eviction)
    return run(workload, linear_surface(1e-3), limits, compiled=False).prefix_hits


@pytest.mark.parametrize("eviction", OTHERS)
def test_tokens_and_blocks_are_conserved(eviction: Eviction) -> None:
    for seed in range(6):
        result = random_cached_run(eviction, seed)
        steps = result.step_table
        assert steps is not None
        assert np.array_equal(result.finished, ~result.rejected)
        assert np.all(steps.free_blocks >= 0)
        for replica in range(len(result.steps)):
            own = np.flatnonzero(steps.replica == replica)
            if len(own):
                assert steps.free_blocks[own[-1]] == result.settings.num_blocks - 1


@pytest.mark.slow
@pytest.mark.skipif(DISABLED, reason="needs compilation")
def test_compiled_and_plain_runs_are_identical_to_the_bit() -> None:
    for eviction in OTHERS:  # one kernel for all of them
        for seed in range(40):
            plain, compiled = (random_cached_run(eviction, seed, compiled=how) for how in (False, True))
            assert digest(plain) == digest(compiled), (eviction, seed)


@pytest.mark.parametrize("eviction", EVICTIONS)
def test_with_room_for_everything_the_order_does_not_matter(eviction: Eviction) -> None:
    workload = prefixes([0, 1, 2, 3] * 5)
    assert hits(workload, eviction, replace(ONE, num_blocks=500)) == 16 * 128


def test_belady_finds_the_most() -> None:
    for seed in range(3):
        draw = random.Random(seed)
        skewed = [min(int(draw.expovariate(0.35)), 9) for _ in range(80)]
        found = {name: hits(prefixes(skewed), name) for name in EVICTIONS}
        assert found["belady"] == max(found.values())
        assert found["belady"] > found["lru"]


def test_a_loop_that_does_not_fit_defeats_lru_and_not_belady() -> None:
    loop = prefixes([0, 1, 2, 3, 4] * 12)  # 40 blocks of prefixes, 32 in the cache
    assert hits(loop, "lru") == 0
    assert hits(loop, "belady") > 0.4 * 60 * 128


def test_frequent_content_survives_a_scan_under_lfu() -> None:
    scan = [0, 0, 0] + [number for k in range(30) for number in (100 + 3 * k, 101 + 3 * k, 102 + 3 * k, 0)]
    assert hits(prefixes(scan), "lfu") > 1.5 * hits(prefixes(scan), "lru")


def test_what_is_learned_beats_lru_where_reuse_can_be_told() -> None:
    """Short prefixes come again, long ones never do; a scan of long ones empties an LRU cache."""
    draw = random.Random(5)
    offset, ids, tokens, prompt = [0], [], [], []
    for i in range(200):
        again = draw.random() < 0.5
        ids += [draw.randint(0, 5) if again else 1000 + i, 5000 + i]
        tokens += [48 if again else 240, 16]
        offset.append(len(ids))
        prompt.append(sum(tokens[-2:]))
    workload = request_table(np.arange(200.0), prompt, np.ones(200), segments=(offset, ids, tokens))
    found = {name: hits(workload, name) for name in EVICTIONS}
    assert found["lru"] < found["learned"] <= found["belady"]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(SpecError, match="eviction"):
        replace(ONE, eviction="fifo")  # type: ignore[arg-type]
