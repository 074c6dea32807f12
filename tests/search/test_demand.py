"""How many requests may be late: exactly as many as the percentile's definition lets pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.metrics.latency import statistic
from windtunnel.search.demand import allowed_beyond, allowed_unmet, demands
from windtunnel.specs.slo import STATISTICS, Target, parse_slo
from windtunnel.workload.table import request_table


@given(st.integers(1, 3000), st.sampled_from([s for s in STATISTICS if s != "mean"]), st.integers(0, 2**31))
def test_more_than_allowed_break_a_percentile(count: int, name: str, seed: int) -> None:
    target = Target(metric="ttft", statistic=name, limit_s=1.0)
    allowed = allowed_beyond(target, count)
    if allowed + 1 > count:
        return
    draw = np.random.default_rng(seed)
    values = draw.uniform(0.0, 0.999, count)
    values[: allowed + 1] = draw.uniform(1.0, 9.0, allowed + 1)
    assert statistic(values, name) >= 1.0
    # Two fewer can hold it: the bound is not loose.
    values[: allowed - 1] = 1.0 + 1e-12
    values[allowed - 1 :] = 0.0
    assert statistic(values, name) < 1.0 or allowed <= 1


@given(st.integers(2, 500), st.floats(0.1, 5.0))
def test_more_than_allowed_break_a_mean(count: int, limit_s: float) -> None:
    target = Target(metric="ttft", statistic="mean", limit_s=limit_s)
    late = min(allowed_beyond(target, count) + 1, count)
    values = np.zeros(count)
    values[:late] = 10.0 * limit_s
    if late > count / 10:
        assert statistic(values, "mean") >= limit_s


@pytest.mark.parametrize(("share", "count", "late"), [("90%", 1000, 100), ("99%", 50, 0), ("100%", 7, 0)])
def test_attainment_counts_who_may_miss(share: str, count: int, late: int) -> None:
    assert allowed_unmet(parse_slo(f"ttft<1s,attainment>={share}"), count) == late


def test_demands_by_hand() -> None:
    workload = request_table(np.arange(101.0) + 5.0, np.arange(1, 102), np.full(101, 11))
    finished, first = demands(workload, parse_slo("ttft_p99<2s,tpot_p90<100ms"))
    # All but 2 get their first token within 2 s; all but 2 + 11 finish after 10 more tokens at 100 ms.
    assert len(first) == 99
    assert first.output_tokens.sum() == 99
    assert first.horizon_s == pytest.approx(100.0 + 2.0)
    assert len(finished) == 101 - 2 - 11
    assert finished.prompt_tokens.tolist() == list(range(1, 89))
    assert finished.horizon_s == pytest.approx(100.0 + 2.0 + 10 * 0.1)


def test_nothing_is_demanded_where_nothing_bounds_the_end() -> None:
    workload = request_table([0.0, 1.0, 2.0], [10] * 3, [10] * 3)
    assert demands(workload, parse_slo("tpot_p99<50ms")) == ()
    waits = request_table([0.0, 1.0, 2.0], [10] * 3, [10] * 3, after=[-1, 0, 1])
    assert demands(waits, parse_slo("ttft_p99<1s")) == ()
