from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import pytest

from live.engine import CONFIG
from windtunnel.errors import MissingDependencyError
from windtunnel.live.profile.device import DeviceRates, device_file
from windtunnel.live.profile.points import Point, doubling, points_of
from windtunnel.live.profile.run import _read_journal
from windtunnel.live.profile.timing import Timed, timed, timed_in_turn
from windtunnel.live.profile.turns import groups_of
from windtunnel.live.reference import read_references
from windtunnel.specs.load import build, load
from windtunnel.specs.plan import PlanSpec

HAS_TORCH = importlib.util.find_spec("torch") is not None


class Clock:
    """A clock that a kernel moves; every so often another process takes a time slice."""

    def __init__(self, kernel_s: float, slice_s: float = 0.0, every: int = 3) -> None:
        self.now_s, self.kernel_s, self.slice_s, self.every = 0.0, kernel_s, slice_s, every
        self.runs = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    def run(self) -> None:
        self.now_s += self.kernel_s
        if self.slice_s and next(self.runs) % self.every == 0:
            self.now_s += self.slice_s


def test_a_steady_kernel_is_timed_exactly() -> None:
    clock = Clock(20e-6)
    found = timed(clock.run, clock=clock)
    assert found.seconds == pytest.approx(20e-6)
    assert found.spread == pytest.approx(0.0, abs=1e-6)
    assert found.samples >= 1000


def test_time_slices_of_others_do_not_count_but_show() -> None:
    clock = Clock(2e-3, slice_s=12e-3, every=2)
    found = timed(clock.run, clock=clock)
    assert found.seconds == pytest.approx(2e-3)
    assert found.spread > 1.0


def test_of_two_timings_the_calmer_counts_and_both_spread() -> None:
    slow, calm = Timed(1.25e-4, 0.2, 30), Timed(1e-4, 0.1, 20)
    for found in (slow.beside(calm), calm.beside(slow)):
        assert found.seconds == 1e-4
        assert found.spread == pytest.approx(0.5)
        assert found.samples == 50


def test_kernels_in_turn_each_get_their_own_time() -> None:
    clock = Clock(20e-6)

    def after() -> None:
        clock.now_s += 90e-6

    found = timed_in_turn([clock.run, after], clock=clock)
    assert [one.seconds for one in found] == pytest.approx([20e-6, 90e-6])
    assert found[0].spread == pytest.approx(0.0, abs=1e-6)


def test_a_layer_is_timed_in_turn_and_each_attention_in_a_layer_of_its_own(tmp_path: Path) -> None:
    model = load("models", str(tiny(tmp_path)))
    points = points_of(model, PlanSpec(), 64, 8, 256)
    groups = list(groups_of(points, in_turn=True))
    wanted = [point for group, _ in groups for point in group]
    assert sorted(wanted, key=lambda one: one.name) == sorted(points, key=lambda one: one.name)
    for group, layer in groups:
        assert len({point.rows for point in (*group, *layer)}) == 1
        assert len(group) == 1 or not layer
        assert not any(point.once or point.key[0] == "attention" for point in layer)
        if group[0].key[0] == "attention":
            assert len(layer) >= 8
    assert [group for group, _ in groups_of(points, in_turn=False)] == [[point] for point in points]


def test_sizes_double_up_to_the_most() -> None:
    assert list(doubling(6)) == [1, 2, 4, 6]
    assert list(doubling(1)) == [1]


def tiny(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "config.json"


def test_points_cover_every_kernel_of_a_step(tmp_path: Path) -> None:
    model = load("models", str(tiny(tmp_path)))
    points = points_of(model, PlanSpec(), 64, 8, 256)
    assert len(set(points)) == len(points)
    products = {point.key[1:3] for point in points if point.key[0] == "gemm"}
    # qkv, attention out, gate and up, down, LM head
    assert products == {(1024, 512), (512, 512), (2816, 512), (512, 1408), (8192, 512)}
    attention = [point.sizes for point in points if point.key[0] == "attention"]
    assert (64, 0, 0, 0) in attention
    assert (0, 0, 8, 256) in attention
    assert max(point.sizes[0] for point in points if point.key[1:3] == (8192, 512)) == 8


def test_an_unknown_processor_becomes_a_device_that_loads() -> None:
    from windtunnel.specs.hardware import AcceleratorSpec
    from windtunnel.specs.load import merged, read_catalogue_yaml

    rates = DeviceRates("Some Processor", 30e9, {"fp32": 1e11, "bf16": 4e11}, 2e-6, 16 * 2**30, 2, 0.0)
    data = device_file(rates, "box", "2026-11-21", "PyTorch 2")
    assert data.pop("extends") == "generic-cpu"
    spec = build(AcceleratorSpec, merged(read_catalogue_yaml("accelerators", "generic-cpu"), data), "device.yaml")
    assert spec.memory_bandwidth_bytes_per_s == pytest.approx(30e9, rel=1e-3)
    assert spec.peak_flops_per_s["bf16"] == pytest.approx(4e11, rel=1e-3)
    assert spec.kernels == "."


@pytest.mark.skipif(HAS_TORCH, reason="PyTorch is installed")
def test_without_pytorch_the_message_says_what_to_install(tmp_path: Path) -> None:
    from windtunnel.live.profile.run import profile

    with pytest.raises(MissingDependencyError, match=r"windtunnel\[profile\]"):
        profile(load("models", str(tiny(tmp_path))), PlanSpec(), tmp_path / "out")


def test_points_measured_otherwise_are_measured_again(tmp_path: Path) -> None:
    journal = tmp_path / "points.jsonl"
    line = {"with": "PyTorch 9, 2 threads", "point": "a", "seconds": 1.0, "spread": 0.0, "samples": 3}
    journal.write_text(json.dumps(line) + "\n" + '{"with": "PyTorch 9, 2 thr')
    assert list(_read_journal(journal, "PyTorch 9, 2 threads")) == ["a"]
    assert _read_journal(journal, "PyTorch 9, 1 threads") == {}


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_a_profile_is_resumed_and_used(tmp_path: Path) -> None:
    from windtunnel.live.profile import run as module
    from windtunnel.specs.assemble import load_deployment

    model, out = load("models", str(tiny(tmp_path))), tmp_path / "out"
    calls: list[Point] = []
    first = module.profile(
        model, PlanSpec(), out, max_tokens=8, max_requests=2, max_context=32,
        progress=lambda _done, _all, what: calls.append(what),
    )  # fmt: skip
    journal = (out / "points.jsonl").read_text().splitlines()
    assert len(journal) == module.PASSES * first["points"] >= len(calls) > 0
    assert len(read_references(out)) == 2
    again = module.profile(model, PlanSpec(), out, max_tokens=8, max_requests=2, max_context=32)
    assert len((out / "points.jsonl").read_text().splitlines()) == module.PASSES * again["points"]
    found = load_deployment(
        {"model": str(tmp_path / "config.json"), "accelerator": str(out / "device.yaml"), "engine": "ideal"}
    )
    from windtunnel.cost.steps import price_step
    from windtunnel.operators.batch import decode_batch

    cost = price_step(found, decode_batch(2, 16))
    assert cost.total_s > 0
    assert "measured" in cost.source
