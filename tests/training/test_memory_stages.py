"""Live microbatches at the peak, against the schedules played pass by pass."""

from __future__ import annotations

import pytest

from windtunnel.specs.load import load
from windtunnel.specs.training import Schedule, TrainingPlan
from windtunnel.training.memory_stages import live_chunks, stage_load
from windtunnel.training.schedule import Order, orders


def peak_of(order: Order) -> tuple[int, int]:
    """(most chunks alive, most waiting for weight gradients while that many are) of a rank's passes."""
    alive = late = most = 0
    waiting: list[tuple[int, int]] = []
    for kind, *_ in order:
        alive += kind in ("F", "O")
        waiting.append((alive, late))
        most = max(most, alive)
        alive -= kind in ("B", "X")
        late += (kind == "B") - (kind == "W")
    return most, max(after for before, after in waiting if before == most)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zero-bubble"])
@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 2), (4, 4), (4, 16), (8, 5), (8, 64)])
def test_plain_schedules(schedule: Schedule, ranks: int, microbatches: int) -> None:
    for rank, order in enumerate(orders(schedule, ranks, 1, microbatches)):
        alive, late = peak_of(order)
        assert live_chunks(schedule, ranks, 1, microbatches, rank) == (alive,)
        if schedule == "zero-bubble":
            plan = TrainingPlan(pipeline_parallel=ranks, schedule=schedule)
            load_ = stage_load(load("models", "gpt-3-175b"), plan, microbatches, rank)
            assert load_.late_dense == pytest.approx(late * load_.dense)


@pytest.mark.parametrize(("ranks", "chunks", "microbatches"), [(2, 2, 4), (4, 2, 8), (4, 3, 4), (8, 4, 64), (8, 2, 16)])
def test_interleaved(ranks: int, chunks: int, microbatches: int) -> None:
    for rank, order in enumerate(orders("interleaved", ranks, chunks, microbatches)):
        assert sum(live_chunks("interleaved", ranks, chunks, microbatches, rank)) == peak_of(order)[0]


@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 8), (4, 20), (8, 16), (8, 64)])
def test_dualpipe_keeps_one_more_than_its_ranks(ranks: int, microbatches: int) -> None:
    for rank, order in enumerate(orders("dualpipe", ranks, 1, microbatches)):
        plan = TrainingPlan(pipeline_parallel=ranks, schedule="dualpipe")
        load_ = stage_load(load("models", "gpt-3-175b"), plan, microbatches, rank)
        each = load_.dense / 2
        assert peak_of(order)[0] <= load_.live_dense / each
