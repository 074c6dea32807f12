"""The calibration pipeline: it recovers constants that it is given, and says what it left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from windtunnel.cost import gemm
from windtunnel.cost.calibration import fit, tables
from windtunnel.cost.device import Device, calibration, device_of
from windtunnel.errors import MissingDependencyError
from windtunnel.specs.load import resolve


def test_a_fit_recovers_the_times_it_was_made_from() -> None:
    accelerator = resolve("accelerators", "h100-sxm")
    truth = device_of(accelerator)
    rng = np.random.default_rng(1)
    m, n, k = (rng.choice([1, 16, 64, 256, 1024, 4096, 8192], 3000) for _ in range(3))
    n, k = np.maximum(n, 256), np.maximum(k, 256)
    seconds = gemm.gemm_seconds(m, n.astype(float), k.astype(float), truth, "bf16", "bf16")
    noisy = seconds * rng.lognormal(0.0, 0.02, len(seconds))
    start = Device(accelerator, calibration("generic"), "datasheet")
    found = fit.fit_gemm({"m": m, "n": n, "k": k, "latency": noisy * 1e3}, start, "bf16")
    assert found.median_error < 0.03
    assert abs(found.bias) < 0.01
    assert found.interval[0] < 1.0 < found.interval[1]


def test_held_out_rows_are_not_trained_on() -> None:
    train, held = tables.split(1000, 300)
    assert len(train) == 300
    assert not set(train) & set(held)
    train, _ = tables.split(100, 300)
    assert len(train) == 50


def test_missing_tables_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="windtunnel\\[tables\\]"):
        tables.tables_folder()


def test_a_folder_without_the_system_gives_no_table(tmp_path: Path) -> None:
    assert tables.read_tables(tmp_path, "h100_sxm", "gemm", "gemm_perf.parquet", ("vllm",), {}) is None
