"""Gaps between tokens agree with TPOT, also through preemptions."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.surface import linear_surface
from windtunnel.errors import SpecError
from windtunnel.metrics.gaps import token_gaps_s
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import request_table

TRAFFIC = request_table(np.linspace(0.0, 0.2, 30), np.full(30, 40), np.arange(1, 31))


@pytest.mark.parametrize("blocks", [2000, 60])
def test_gaps_add_up_to_the_decode_time(blocks: int) -> None:
    settings = SchedulerSettings(
        max_num_seqs=16, max_num_batched_tokens=64, max_model_len=128, num_blocks=blocks, block_size=4
    )
    done = run(TRAFFIC, linear_surface(0.01, 1e-4, 1e-6), settings, record_steps=True)
    assert (done.preemptions.sum() > 0) == (blocks == 60)
    gaps = token_gaps_s(done)
    assert len(gaps) == (done.output_tokens - 1).sum()
    assert gaps.sum() == pytest.approx((done.finish_s - done.first_token_s).sum())
    assert gaps.min() > 0


def test_gaps_need_the_steps() -> None:
    settings = SchedulerSettings(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=128, num_blocks=100)
    with pytest.raises(SpecError, match="record_steps"):
        token_gaps_s(run(TRAFFIC, linear_surface(0.01), settings))
