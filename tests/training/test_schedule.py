"""Pipeline schedules: their bubbles are the formulas of their papers, and every pass runs once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.specs.training import Schedule
from windtunnel.training.pipeline import StageSeconds, play
from windtunnel.training.schedule import bubble_seconds, orders

FORWARD, INPUT, WEIGHT = 1.0, 1.2, 0.8


def _uniform(ranks: int, chunks: int) -> list[StageSeconds]:
    return [StageSeconds(FORWARD / chunks, INPUT / chunks, WEIGHT / chunks)] * (ranks * chunks)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
@pytest.mark.parametrize("groups", [2, 3, 7, 20])
@pytest.mark.parametrize(
    ("schedule", "chunks"),
    [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 4), ("zero-bubble", 1), ("dualpipe", 1)],
)
def test_bubble_is_the_formula(schedule: Schedule, chunks: int, ranks: int, groups: int) -> None:
    microbatches = groups * ranks
    played = play(schedule, _uniform(ranks, chunks), ranks, microbatches)
    work = microbatches * (FORWARD + INPUT + WEIGHT)
    expected = bubble_seconds(schedule, ranks, chunks, FORWARD, INPUT, WEIGHT)
    assert played.seconds - work == pytest.approx(expected, abs=1e-9)
    assert all(busy == pytest.approx(work) for busy in played.busy_s)


def test_bubble_share_of_1f1b() -> None:
    """(p - 1) / (m + p - 1), Narayanan et al. 2021, section 2.2."""
    played = play("1f1b", _uniform(8, 1), 8, 32)
    assert 1.0 - played.busy_s[0] / played.seconds == pytest.approx(7 / 39)


def test_interleaving_divides_the_bubble_by_the_chunks() -> None:
    plain = play("1f1b", _uniform(4, 1), 4, 16).seconds
    for chunks in (2, 4, 8):
        played = play("interleaved", _uniform(4, chunks), 4, 16).seconds
        assert played - 48.0 == pytest.approx((plain - 48.0) / chunks)


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_every_pass_runs_once(schedule: Schedule) -> None:
    chunks = 3 if schedule == "interleaved" else 1
    ranks, microbatches = 4, 12
    seen: Counter[tuple[str, int, int, int]] = Counter()
    for order in orders(schedule, ranks, chunks, microbatches):
        for kind, lane, stage, micro in order:
            for one in {"X": "BW", "O": "F"}.get(kind, kind):
                seen[one, lane, stage, micro] += 1
    lanes = {lane for _, lane, _, _ in seen}
    assert set(seen.values()) == {1}
    assert len(seen) == 3 * ranks * chunks * microbatches
    assert lanes == ({0, 1} if schedule == "dualpipe" else {0})


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["gpipe", "1f1b", "interleaved", "zero-bubble"]),
    st.integers(2, 5),
    st.integers(1, 9),
    st.lists(st.floats(0.5, 2.0), min_size=15, max_size=15),
    st.floats(0.0, 0.3),
)
def test_uneven_stages(schedule: Schedule, ranks: int, groups: int, sizes: list[float], hop: float) -> None:
    """A step is never shorter than its fullest rank, nor than one microbatch through all stages and back."""
    chunks = 3 if schedule == "interleaved" else 1
    stages = [StageSeconds(s, 1.3 * s, 0.7 * s) for s in sizes[: ranks * chunks]]
    microbatches = groups * ranks
    played = play(schedule, stages, ranks, microbatches, hop_s=hop, whole=True, timeline=True)
    fullest = max(sum(stages[i].total for i in range(rank, len(stages), ranks)) for rank in range(ranks))
    through = sum(stage.forward + stage.input_gradient for stage in stages)
    assert played.seconds >= microbatches * fullest - 1e-9
    assert played.seconds >= through + 2 * hop * (len(stages) - 1) - 1e-9
    for rank in range(ranks):
        mine = sorted((run.start_s, run.end_s) for run in played.runs if run.rank == rank)
        assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(mine))


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zero-bubble", "dualpipe"])
def test_continued_pace_is_the_played_one(schedule: Schedule) -> None:
    chunks = 2 if schedule == "interleaved" else 1
    stages = [StageSeconds(1.0 + 0.1 * i, 1.2 + 0.1 * (i % 3), 0.8) for i in range(4 * chunks)]
    short = play(schedule, stages, 4, 96, hop_s=0.01)
    whole = play(schedule, stages, 4, 96, hop_s=0.01, whole=True)
    assert not short.whole
    assert short.seconds == pytest.approx(whole.seconds, rel=2e-3)


def test_blocked_messages_lengthen_every_microbatch() -> None:
    free = play("1f1b", _uniform(4, 1), 4, 64)
    sent = play("1f1b", _uniform(4, 1), 4, 64, hop_s=0.1)
    assert sent.seconds >= free.seconds + 6 * 0.1 - 1e-9
