"""Conversations that users hold one after another: each waits for the one before it, whatever the rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.specs.workload import WorkloadSpec
from windtunnel.workload.load import load_workload


@pytest.mark.parametrize("users", [1, 3, 64])
@pytest.mark.parametrize("think_s", [0.0, 0.3])
@given(turns=st.integers(1, 6), requests=st.integers(1, 300), seed=st.integers(0, 1000))
def test_every_request_comes_after_the_one_it_waits_for(
    users: int, think_s: float, turns: int, requests: int, seed: int
) -> None:
    spec = WorkloadSpec(
        requests=requests,
        seed=seed,
        arrivals={"kind": "closed", "concurrency": users, "think_s": think_s},
        sessions={"turns": {"kind": "fixed", "tokens": turns}},
    )
    table = load_workload(spec).table
    waits = table.after >= 0
    assert (table.after < np.arange(len(table))).all()
    assert (table.arrival_s[waits] >= table.arrival_s[table.after[waits]]).all()
    assert len(np.unique(table.after[waits])) == waits.sum()
    assert (~waits).sum() <= users
