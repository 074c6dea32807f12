from __future__ import annotations

import numpy as np
import pytest

from live.made import deployment, measured, traffic
from windtunnel.live.compare import compare_deployment
from windtunnel.live.repeats import Repeated, middle_run, repeated


def test_the_error_is_that_of_the_median_run() -> None:
    found = Repeated("tpot_p50_s", (1.0, 1.1, 2.0), 1.21, 1.0, 1.4)
    assert found.middle == 1.1
    assert found.error == pytest.approx(0.1)
    assert found.noise == pytest.approx(1.0)


def test_what_the_runs_leave_open_holds_the_truth_four_times_in_five() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = Repeated("x", tuple(np.exp(0.1 * random.standard_normal(6)).tolist()), 1.0, 0.9, 1.1)
        inside += abs(np.log(found.middle)) <= found.left_open
    assert 0.72 <= inside / 2000 <= 0.85


def test_one_run_alone_leaves_open_how_noisy_it_is() -> None:
    alone = Repeated("x", (1.0,), 1.0, 0.9, 1.1)
    assert np.isnan(alone.left_open)
    assert alone.noise == 0.0


def test_runs_are_gathered_figure_by_figure() -> None:
    base = deployment()
    runs = [compare_deployment(measured(base, traffic(40), noise=0.1, seed=seed), base) for seed in (1, 2, 3)]
    found = {one.name: one for one in repeated(runs)}
    assert list(found) == [figure.name for figure in runs[0].figures]
    tpot = found["tpot_p50_s"]
    assert tpot.measured == tuple(one.figure("tpot_p50_s").measured for one in runs)
    assert tpot.low <= tpot.predicted <= tpot.high
    order = sorted(range(3), key=lambda place: runs[place].figure("e2e_mean_s").measured)
    assert middle_run(runs) == order[1]
