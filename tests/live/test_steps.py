from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from live import made, profiled
from windtunnel.cost.build_surface import step_surface
from windtunnel.live.compare import compare_deployment
from windtunnel.live.fit import fit
from windtunnel.live.frontend import intervals, most_agreed
from windtunnel.live.steadiness import steadiness
from windtunnel.live.steps import clusters, kernel_seconds, observed_steps, shows_steps


def test_token_times_show_the_steps(tmp_path: Path) -> None:
    truth = profiled.deployment(tmp_path, step_host_s=2e-3, request_host_s=5e-5)
    seen = profiled.served(truth)
    steps = observed_steps(seen, truth)
    assert shows_steps(truth)
    assert len(steps) > 500
    assert steps.prompts.max() >= 1
    assert steps.decodes.max() >= 3
    surface = step_surface(truth)
    requests = steps.decodes + steps.prompts
    expected_s = (
        kernel_seconds(surface, steps, truth.max_model_len) + surface.host_s + surface.host_request_s * requests
    )
    ratio = expected_s / steps.seconds
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)
    assert np.quantile(np.abs(np.log(ratio)), 0.9) < 0.06


def test_tokens_that_come_evenly_show_no_steps() -> None:
    base = made.deployment()
    assert len(observed_steps(made.measured(base, made.traffic()), base)) == 0


def test_prompts_found_in_the_cache_leave_steps_unknown(tmp_path: Path) -> None:
    truth = profiled.deployment(tmp_path, enable_prefix_caching=True)
    seen = profiled.served(truth, 4.0)
    assert len(observed_steps(seen, truth)) > 100
    none, some = np.zeros(3), np.array([0.0, 500.0, 1000.0])
    assert len(observed_steps(replace(seen, engine={"prefix_hits": none}), truth)) > 100
    assert len(observed_steps(replace(seen, engine={"prefix_hits": some}), truth)) == 0
    shared = replace(seen, segment_offset=np.arange(len(seen) + 1))
    assert len(observed_steps(shared, truth)) == 0


def test_a_measurement_without_token_times_shows_nothing(tmp_path: Path) -> None:
    truth = profiled.deployment(tmp_path)
    seen = profiled.served(truth, 2.0)
    bare = replace(seen, token_s=np.zeros(0), token_offset=np.zeros(len(seen) + 1, dtype=np.int64))
    assert len(observed_steps(bare, truth)) == 0
    assert steadiness(bare, truth) is None
    assert most_agreed(*intervals(bare, clusters(bare))) is None


def test_engines_whose_steps_overlap_are_not_read_by_steps(tmp_path: Path) -> None:
    assert not shows_steps(profiled.deployment(tmp_path, async_scheduling=True))
    assert not shows_steps(made.deployment())
    assert shows_steps(made.deployment(overlap_scheduling=False))


@pytest.mark.parametrize("disturbed", [(0.0, 0.0), (2.0, 3.0)])
def test_a_fit_of_steps_finds_the_overheads_whatever_disturbs_a_second(
    tmp_path: Path, disturbed: tuple[float, float]
) -> None:
    truth = profiled.deployment(tmp_path, step_host_s=3e-3, request_host_s=8e-5, frontend_s=5e-3)
    seen = profiled.served(truth, disturbed=disturbed)
    base = profiled.deployment(tmp_path)
    found = fit(base, seen, kernels=True)
    assert found.steps > 200
    assert found.improved
    assert found.fields["step_host_s"] == pytest.approx(3e-3, rel=0.05)
    assert found.fields["kernel_rate"] == pytest.approx(1.0, rel=0.04)
    assert found.fields["frontend_s"] == pytest.approx(5e-3, rel=0.1)


def test_several_runs_are_fitted_together_so_that_one_disturbed_run_does_not_decide(tmp_path: Path) -> None:
    truth = profiled.deployment(tmp_path, step_host_s=3e-3, request_host_s=8e-5, frontend_s=5e-3)
    calm = [profiled.served(truth, 6.0, seed=seed) for seed in (1, 2)]
    slow = profiled.served(truth, 6.0, seed=3, disturbed=(0.0, 99.0))
    base = profiled.deployment(tmp_path)
    alone, found = fit(base, slow, kernels=True), fit(base, calm[0], slow, calm[1], kernels=True)
    assert alone.fields["step_host_s"] > 5e-3
    assert found.fields["step_host_s"] == pytest.approx(3e-3, rel=0.15)
    assert found.fields["kernel_rate"] == pytest.approx(1.0, rel=0.15)
    assert found.fields["frontend_s"] == pytest.approx(5e-3, rel=0.15)
    assert sum(found.requests.values()) == len(slow) + sum(map(len, calm))
    assert len(found.drifts) == 3


def test_seconds_in_which_something_disturbed_the_machine_are_told(tmp_path: Path) -> None:
    truth = profiled.deployment(tmp_path, step_host_s=3e-3)
    steady = steadiness(profiled.served(truth), truth)
    assert steady is not None
    assert steady.disturbed == 0
    assert steady.calm.all()
    seen = profiled.served(truth, disturbed=(4.0, 6.0))
    found = compare_deployment(seen, truth)
    unsteady = steadiness(seen, truth)
    assert unsteady is not None
    assert unsteady.disturbed in (2, 3)
    assert unsteady.slowdown == pytest.approx(2.0, rel=0.1)
    assert not unsteady.calm[(seen.due_s > 4.0) & (seen.due_s < 5.9)].any()
    note = next(note for note in found.notes if "disturbed" in note)
    assert f"{unsteady.calm.sum():,} requests that saw none of it" in note
    assert steadiness(made.measured(made.deployment(), made.traffic(60)), made.deployment()) is None
