"""The catalogue of hardware, engines and prices as a whole: it loads, is sourced, and obeys physics."""

from __future__ import annotations

import csv
import re
from collections import Counter
from typing import Any

import pytest

from helpers import shared_file
from windtunnel.cost.device import calibration, calibration_names, device_of
from windtunnel.specs.assemble import default_node
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec
from windtunnel.specs.load import names, resolve
from windtunnel.specs.prices import price_usd_per_h

ACCELERATORS: list[AcceleratorSpec] = [resolve("accelerators", name) for name in names("accelerators")]
NODES: list[NodeSpec] = [resolve("nodes", name) for name in names("nodes")]
FABRICS: list[FabricSpec] = [resolve("fabrics", name) for name in names("fabrics")]
ENGINES: list[EngineSpec] = [resolve("engines", name) for name in names("engines")]

IDENTITY = {"name", "aliases", "title", "sources", "scope", "version"}
"""Fields that say which thing it is, and so need no source."""


def _name(entry: Any) -> str:
    return str(entry.name)


def test_there_are_enough() -> None:
    assert len(ACCELERATORS) >= 25
    assert {a.vendor for a in ACCELERATORS} >= {"nvidia", "amd", "intel", "google"}


@pytest.mark.parametrize("kind", ["accelerators", "nodes", "fabrics", "engines"])
def test_names_and_aliases_are_unique(kind: str) -> None:
    entries = [resolve(kind, name) for name in names(kind)]
    assert [entry.name for entry in entries] == list(names(kind))
    spelled = Counter(text for entry in entries for text in {t.casefold() for t in (entry.name, *entry.aliases)})
    assert [text for text, count in spelled.items() if count > 1] == []


@pytest.mark.parametrize("entry", [*ACCELERATORS, *NODES, *FABRICS, *ENGINES], ids=_name)
def test_every_field_is_sourced(entry: Any) -> None:
    given = entry.model_fields_set - IDENTITY
    covered = {field for source in entry.sources for field in source.fields}
    assert covered <= set(type(entry).model_fields)
    if all(source.fields for source in entry.sources):
        assert given - covered == set()
    assert entry.title
    for source in entry.sources:
        assert source.source
        assert source.date


@pytest.mark.parametrize("device", ACCELERATORS, ids=_name)
def test_accelerator_has_all_it_takes(device: AcceleratorSpec) -> None:
    node = default_node(device.name)
    assert node is not None
    assert price_usd_per_h(device.name).usd_per_h > 0
    assert device.host_link in names("fabrics")
    assert not device.scale_up or device.scale_up in names("fabrics")
    assert bool(device.scale_up) == (device.scale_up_bytes_per_s > 0)
    assert device_of(device).provenance in ("calibrated", "datasheet")


@pytest.mark.parametrize("device", ACCELERATORS, ids=_name)
def test_accelerator_is_of_this_world(device: AcceleratorSpec) -> None:
    peaks = device.peak_flops_per_s
    half = peaks.get("bf16", peaks.get("fp16"))
    assert half is not None
    assert 4 * 2**30 <= device.memory_bytes <= 600 * 2**30
    assert 50e9 <= device.memory_bandwidth_bytes_per_s <= 10e12
    # FLOP per byte at which a kernel turns from memory- to compute-bound: from laptops to the newest TPU.
    assert 20 <= half / device.memory_bandwidth_bytes_per_s <= 600
    assert 0.3e9 <= device.clock_hz <= 4e9
    assert 0 < device.idle_w < 0.5 * device.max_w
    assert 10 <= device.max_w <= 1500
    # 100 TFLOP/W would be beyond anything built; 0.05 below anything sold for inference.
    assert 0.03e12 <= half / device.max_w <= 10e12
    assert device.vector_flops_per_s <= half * 1.0001
    assert device.scale_up_bytes_per_s <= device.memory_bandwidth_bytes_per_s


@pytest.mark.parametrize("device", ACCELERATORS, ids=_name)
def test_fewer_bits_are_never_slower(device: AcceleratorSpec) -> None:
    peaks = device.peak_flops_per_s
    # int8 is left out: the newest devices have given most of its units up.
    for narrow, wide in (("tf32", "fp32"), ("bf16", "tf32"), ("fp8", "bf16"), ("fp4", "fp8"), ("nvfp4", "fp8")):
        if narrow in peaks and wide in peaks:
            assert peaks[narrow] >= peaks[wide], (narrow, wide)  # type: ignore[index]
    if "bf16" in peaks and "fp16" in peaks:
        assert peaks["fp16"] == pytest.approx(peaks["bf16"], rel=0.01)
    assert set(peaks) <= set(DTYPE_BYTES)


@pytest.mark.parametrize("node", NODES, ids=_name)
def test_node_is_wired(node: NodeSpec) -> None:
    device = resolve("accelerators", node.accelerator)
    assert 1 <= node.accelerators <= 256
    assert not node.fabric or resolve("fabrics", node.fabric).scope == "scale-out"
    if node.accelerators > 1 and node.topology not in ("host", "pcie-switch"):
        assert device.scale_up_bytes_per_s > 0
    if node.nics:
        assert node.nic_bytes_per_s > 0


@pytest.mark.parametrize("fabric", FABRICS, ids=_name)
def test_fabric_is_of_this_world(fabric: FabricSpec) -> None:
    assert 0.1e9 <= fabric.bytes_per_s <= 2e12
    assert 0.0 <= fabric.latency_s <= 100e-6
    assert 0.3 <= fabric.efficiency <= 1.0


@pytest.mark.parametrize("engine", ENGINES, ids=_name)
def test_engine_could_start(engine: EngineSpec) -> None:
    assert engine.max_num_batched_tokens >= engine.max_num_seqs
    assert engine.step_host_s < 0.1
    assert engine.runtime_bytes + engine.graph_bytes < 20e9


@pytest.mark.parametrize("name", sorted(calibration_names()))
def test_calibration_loads(name: str) -> None:
    constants = calibration(name)
    assert set(constants.errors) <= set(constants.samples)
    for low, high in constants.intervals.values():
        assert 0 < low <= 1.0 <= high < 10


NO_NAMES = {
    "H100-SXM-80GB (power-capped)",
    "A100-SXM4-80GB (gpu not named in table; lmdeploy default test box)",
    "H100-96GB-HBM2e (500W, 2.4TB/s)",
    "TPU v6e (Trillium)",
    "V100-SXM3-32GB (DGX-2)",
}
"""What measurements say of their accelerator in more words than a name."""


@pytest.mark.parametrize(
    ("file", "column"), [("serving.csv", "gpu"), ("training.csv", "gpu"), ("inferencex.csv", "system")]
)
def test_measurements_find_their_accelerator(file: str, column: str) -> None:
    with shared_file("evidence", file).open(encoding="utf-8", newline="") as lines:
        measured = {row[column] for row in csv.DictReader(lines)}
    for name in sorted(measured - NO_NAMES):
        assert resolve("accelerators", name).name in names("accelerators")


def test_device_memory_is_close_to_the_nominal_size() -> None:
    found = 0
    for device in ACCELERATORS:
        nominal = re.search(r"(\d+) GB\b", device.title)
        if nominal is not None and device.vendor in ("nvidia", "amd"):
            found += 1
            assert 0.9 * int(nominal[1]) * 1e9 <= device.memory_bytes <= int(nominal[1]) * 2**30, device.name
    assert found >= 15
