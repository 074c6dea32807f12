from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from live.made import BASE, deployment, measured, traffic
from windtunnel.cli.main import app
from windtunnel.errors import SpecError
from windtunnel.live.compare import block_interval, compare
from windtunnel.live.fit import fit
from windtunnel.live.measurement import save
from windtunnel.live.reasons import theil_sen
from windtunnel.live.replay import of_table, replay
from windtunnel.metrics.latency import statistic


def test_a_prediction_of_itself_has_no_error_and_no_reasons() -> None:
    base = deployment()
    seen = measured(base, traffic())
    found = compare(seen, replay(base, seen))
    for figure in found.figures:
        assert figure.error == pytest.approx(0.0, abs=1e-6), figure.name
        assert figure.within_noise
        assert figure.predicted_low <= figure.predicted <= figure.predicted_high
    assert found.figure("tpot_p50_s").predicted_high > 1.05 * found.figure("tpot_p50_s").predicted
    assert found.reasons == ()


@pytest.mark.parametrize(
    ("engine", "what"),
    [
        ({"step_host_s": 0.006}, "host overhead"),
        ({"kernels": {"decode_attention": 0.25}}, "kernel cost"),
        ({"frontend_s": 0.5}, "prefill and front end"),
        ({"max_num_seqs": 16}, "queueing"),
    ],
)
def test_the_reason_of_a_gap_is_found(engine: dict[str, object], what: str) -> None:
    seen = measured(deployment(**engine), traffic(), noise=0.02)
    found = compare(seen, replay(deployment(), seen))
    assert found.reasons[0].what == what
    assert found.reasons[0].seconds > 0
    assert found.figure("e2e_mean_s").error < -0.02


def test_fit_finds_the_overheads_and_holds_out_half() -> None:
    truth = deployment(step_host_s=0.004, request_host_s=30e-6, frontend_s=0.030)
    seen = measured(truth, traffic(), noise=0.02)
    found = fit(deployment(), seen)
    assert found.improved
    assert found.error_after["held out"] < 0.06
    assert found.error_before["held out"] > 0.2
    assert found.fields["step_host_s"] == pytest.approx(0.004, rel=0.25)
    assert found.fields["frontend_s"] == pytest.approx(0.030, rel=0.15)
    assert found.requests["fitted"] + found.requests["held out"] == len(seen)
    both = fit(deployment(), seen, measured(truth, traffic(seed=3), noise=0.02, seed=4), rounds=60)
    assert both.error_after["held out"] < 0.06
    assert both.fields["frontend_s"] == pytest.approx(0.030, rel=0.15)
    other = traffic(rate_per_s=5.0, seed=7)
    again = compare(measured(truth, other), replay(found.after, measured(truth, other)))
    assert abs(again.figure("tpot_p50_s").error) < 0.05


def test_block_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        low, high = block_interval(rng.exponential(1.0, 200), "mean", seed=trial)
        inside += low <= 1.0 <= high
    assert 0.65 <= inside / 60 <= 0.95


def test_theil_sen_ignores_stragglers() -> None:
    x = np.linspace(1, 2, 50)
    y = 0.5 + 1.5 * x
    y[::7] += 10.0
    slope, constant = theil_sen(x, y)
    assert slope == pytest.approx(1.5, abs=0.2)
    assert constant == pytest.approx(0.5, abs=0.4)


def files(tmp_path: Path) -> tuple[Path, Path]:
    import yaml

    plan = tmp_path / "deployment.yaml"
    plan.write_text(yaml.safe_dump({**BASE, "engine": {"extends": "vllm", "enable_prefix_caching": False}}))
    folder = tmp_path / "seen"
    save(measured(deployment(step_host_s=0.005), traffic(120)), folder)
    return plan, folder


def test_the_commands(tmp_path: Path) -> None:
    import yaml

    plan, folder = files(tmp_path)
    run = CliRunner()
    page, out = tmp_path / "page.html", tmp_path / "out.json"
    shown = run.invoke(app, ["compare", str(plan), str(folder), "--html", str(page), "--json", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "host overhead" in shown.output
    record = json.loads(out.read_text())
    assert record["metrics"]["tpot_mean_s"]["error"] < 0
    assert "Request by request" in page.read_text()
    engine = tmp_path / "engine.yaml"
    fitted = run.invoke(app, ["fit", str(plan), str(folder), "--out", str(engine)])
    assert fitted.exit_code == 0, fitted.output
    assert "better than before" in fitted.output
    better = tmp_path / "better.yaml"
    better.write_text(yaml.safe_dump({**BASE, "engine": str(engine)}))
    again = run.invoke(app, ["compare", str(better), str(folder), "--json", "-"])
    assert again.exit_code == 0, again.output
    assert abs(json.loads(again.output)["metrics"]["tpot_mean_s"]["error"]) < 0.03


def test_several_runs_of_a_load_tell_noise_from_error(tmp_path: Path) -> None:
    plan, first = files(tmp_path)
    for seed in (5, 6):
        save(measured(deployment(step_host_s=0.005), traffic(120), noise=0.1, seed=seed), tmp_path / f"seen{seed}")
    folders = [str(first), str(tmp_path / "seen5"), str(tmp_path / "seen6")]
    run, page = CliRunner(), tmp_path / "page.html"
    shown = run.invoke(app, ["compare", str(plan), *folders, "--html", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "3 runs of 120 requests" in shown.output
    assert "Of the middle run, " in shown.output
    assert "All runs" in page.read_text()
    plain = run.invoke(app, ["compare", str(plan), *folders, "--json", "-"])
    record = json.loads(plain.output)
    assert list(record["runs"]) == folders
    assert record["metrics"]["tpot_p50_s"]["left_open"] > 0
    save(measured(deployment(), traffic(60)), tmp_path / "short")
    other = run.invoke(app, ["compare", str(plan), str(first), str(tmp_path / "short")])
    assert other.exit_code == 2
    assert "is no run of the same load" in other.output
    for command in (["compare"], ["fit", "--out", str(tmp_path / "engine.yaml")]):
        twice = run.invoke(app, [*command, str(plan), str(first), f"{first}/"])
        assert twice.exit_code == 2
        assert "is named twice" in twice.output
    assert not (tmp_path / "engine.yaml").exists()


def test_a_table_of_a_simulation_is_compared_row_by_row(tmp_path: Path) -> None:
    from windtunnel.report.columns import requests_frame
    from windtunnel.search.serve import serve

    base, table = deployment(), traffic(60)
    path = tmp_path / "requests.csv"
    requests_frame(serve(base, table).simulation).write_csv(path)
    seen = measured(base, table)
    found = compare(seen, of_table(str(path), seen))
    assert found.figure("ttft_mean_s").error == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(SpecError, match="another workload"):
        of_table(str(path), measured(base, traffic(60, seed=9)))
    with pytest.raises(SpecError, match="fewer requests"):
        of_table(str(path), measured(base, traffic(61)))
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SpecError, match="column missing"):
        of_table(str(tmp_path / "bad.csv"), seen)


def test_statistics_of_both_sides_are_those_of_the_metrics() -> None:
    seen = measured(deployment(), traffic(50))
    found = compare(seen, replay(deployment(), seen))
    assert found.figure("e2e_p90_s").measured == pytest.approx(statistic(seen.e2e_s, "p90"))


def test_missing_paths(tmp_path: Path) -> None:
    plan, _folder = files(tmp_path)
    run = CliRunner()
    gone = run.invoke(app, ["compare", str(plan), str(tmp_path / "nothing")])
    assert gone.exit_code == 2
    nowhere = run.invoke(app, ["compare", str(tmp_path / "no.yaml"), str(tmp_path / "seen")])
    assert nowhere.exit_code == 2
