"""Schedules played level by level come out as played pass by pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.training.levels import levels_of
from windtunnel.training.pipeline import StageSeconds, play
from windtunnel.training.schedule import orders


@settings(max_examples=60, deadline=None)
@given(
    schedule=st.sampled_from(["gpipe", "1f1b", "interleaved", "zero-bubble"]),
    ranks=st.integers(1, 9),
    chunks=st.integers(1, 4),
    groups=st.integers(1, 4),
    odd=st.integers(0, 3),
    hop=st.sampled_from([0.0, 0.07]),
    seed=st.integers(0, 2**16),
)
def test_both_ways_agree(schedule: str, ranks: int, chunks: int, groups: int, odd: int, hop: float, seed: int) -> None:
    chunks = chunks if schedule == "interleaved" and ranks > 1 else 1
    microbatches = groups * ranks if chunks > 1 else groups * ranks + odd
    rng = np.random.default_rng(seed)
    stages = [StageSeconds(*rng.uniform(0.1, 3.0, 3)) for _ in range(ranks * chunks)]
    quick = play(schedule, stages, ranks, microbatches, hop_s=hop, whole=True)  # type: ignore[arg-type]
    slow = play(schedule, stages, ranks, microbatches, hop_s=hop, whole=True, timeline=True)  # type: ignore[arg-type]
    assert quick.rank_end_s == pytest.approx(slow.rank_end_s, rel=1e-12)
    assert quick.busy_s == pytest.approx(slow.busy_s, rel=1e-12)
    assert quick.seconds == pytest.approx(slow.seconds, rel=1e-12)


def test_levels_hold_every_pass_once_after_what_it_waits_for() -> None:
    levels = levels_of("interleaved", 4, 3, 8)
    assert len(levels.work) == sum(map(len, orders("interleaved", 4, 3, 8)))
    assert levels.starts[0] == 0
    assert levels.starts[-1] == len(levels.work)
    nothing = len(levels.work)
    for begin, end in zip(levels.starts, levels.starts[1:], strict=False):
        for waited in (levels.before[begin:end], levels.input[begin:end]):
            assert ((waited < begin) | (waited == nothing)).all()
        assert len(set(levels.rank[begin:end].tolist())) == end - begin
