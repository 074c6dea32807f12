from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from live.profiled import deployment, reference, served
from windtunnel.cost.steps import price_step
from windtunnel.errors import TraceError
from windtunnel.live.compare import compare_deployment
from windtunnel.live.drift import Drift, at_speed, bound_shares, drift_between, drift_of
from windtunnel.live.endpoint import on_this_machine
from windtunnel.live.fit import fit
from windtunnel.live.fitted import engine_yaml
from windtunnel.live.reference import FILE, measure_reference, read_references, reference_of, write_references
from windtunnel.operators.batch import decode_batch, prefill_batch


def test_a_reference_is_measured_kept_and_read(tmp_path: Path) -> None:
    found = measure_reference()
    assert found is not None
    assert 0 < found.product_s < 1
    assert 0 < found.read_s < 1
    assert 0 < found.host_s < 1
    assert "NumPy" in found.software
    write_references(tmp_path, [found])
    assert read_references(tmp_path) == (found,)
    assert read_references(tmp_path / "nowhere") == ()


def test_a_python_that_cannot_measure_gives_no_reference() -> None:
    assert measure_reference("/nowhere/python") is None


@pytest.mark.parametrize("text", ["{", "{}", '[{"product_s": 1.0}]', '[{"product_s": "x"}]', "[3]"])
def test_broken_references_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(TraceError):
        read_references(tmp_path)
    with pytest.raises(TraceError):
        reference_of({**reference().as_dict(), "read_s": 0.0}, "here")


def test_references_that_differ_as_much_among_themselves_are_no_drift() -> None:
    calm = (reference(1.0), reference(1.02))
    assert not drift_between(calm, [reference(0.99), reference(1.03)]).any
    found = drift_between(calm, [reference(0.9), reference(0.92)])
    assert found.product == pytest.approx((0.9 * 0.92 / 1.02) ** 0.5)
    assert (found.read, found.host) == (1.0, 1.0)


def test_twice_the_speed_takes_half_the_time(tmp_path: Path) -> None:
    base = deployment(tmp_path)
    seen = served(base, 3.0)
    shares = bound_shares(base, seen)
    assert sum(shares.values()) == pytest.approx(1.0)
    fast = at_speed(base, Drift(2.0, 2.0, 2.0, 1, 1), shares)
    for batch in (decode_batch(8, 100), prefill_batch([(0, 128)])):
        assert price_step(fast, batch).total_s == pytest.approx(price_step(base, batch).total_s / 2, rel=1e-6)


def test_each_kind_of_work_keeps_to_its_own_reference(tmp_path: Path) -> None:
    base = deployment(tmp_path)
    moved = at_speed(base, Drift(1.0, 0.5, 0.8, 1, 1), {"compute": 0.5, "memory": 0.3, "latency": 0.0, "link": 0.2})
    assert moved.engine.kernels.gemm_compute == base.engine.kernels.gemm_compute
    assert moved.engine.kernels.decode_attention == pytest.approx(base.engine.kernels.decode_attention * 0.5)
    assert moved.engine.kernels.measured == pytest.approx(1 / (0.5 + 0.3 * 2 + 0.2))
    assert moved.engine.step_host_s == pytest.approx(base.engine.step_host_s / 0.8)


def test_a_fit_under_drift_finds_the_overheads_of_the_profile(tmp_path: Path) -> None:
    fields = {"step_host_s": 3e-3, "request_host_s": 8e-5, "frontend_s": 5e-3}
    truth = deployment(tmp_path, [reference(), reference()], **fields)
    shares = bound_shares(truth, served(truth, 3.0))
    slow = at_speed(truth, Drift(0.8, 0.8, 0.8, 2, 2), shares)
    seen = served(slow, references=[reference(0.8, 0.8, 0.8).as_dict()] * 2)
    base = deployment(tmp_path)
    found = fit(base, seen, kernels=True)
    assert found.drifts[0] is not None
    assert found.fields["step_host_s"] == pytest.approx(3e-3, rel=0.05)
    assert found.fields["kernel_rate"] == pytest.approx(1.0, rel=0.04)
    assert "Python at 80%" in engine_yaml(found, seen)
    blind = fit(base, replace(seen, meta={}), kernels=True)
    assert blind.fields["step_host_s"] == pytest.approx(3e-3 / 0.8, rel=0.06)


def test_compare_prices_the_measured_speed_and_says_what_it_was_without(tmp_path: Path) -> None:
    base = deployment(tmp_path, [reference()])
    slow = at_speed(base, Drift(0.8, 0.8, 0.8, 1, 2), {"compute": 1.0})
    seen = served(slow, 6.0, references=[reference(0.8, 0.8, 0.8).as_dict()] * 2)
    found = compare_deployment(seen, base)
    figure = found.figure("tpot_p50_s")
    assert abs(figure.error) < 0.05
    assert figure.as_profiled < 0.85 * figure.measured
    assert any("Python at 80%" in note for note in found.notes)
    assert found.drift is not None
    assert found.drift.host == pytest.approx(0.8)
    other = [{**reference(0.8).as_dict(), "software": "Python 4"}]
    drift, why = drift_of(base, replace(seen, meta={"references": other}))
    assert drift is None
    assert "cannot be compared" in why


def test_without_references_nothing_changes(tmp_path: Path) -> None:
    base = deployment(tmp_path)
    seen = served(base, 3.0)
    found = compare_deployment(seen, base)
    assert found.drift is None
    assert found.figure("tpot_p50_s").as_profiled != found.figure("tpot_p50_s").as_profiled


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://localhost:8000", True), ("http://[::1]:80/v1", True), ("http://10.0.0.3:80", False), ("nonsense", False)],
)
def test_servers_of_this_machine(url: str, here: bool) -> None:
    assert on_this_machine(url) is here


def test_a_reference_needs_a_program(tmp_path: Path) -> None:
    from windtunnel.cli.main import app

    arguments = ["bench", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out"), "--reference", "/nowhere"]
    answer = CliRunner().invoke(app, [*arguments, "--workload", "azure-conversation"])
    assert answer.exit_code == 2
    assert "--reference" in answer.output
