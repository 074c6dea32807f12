"""A folder of tables: constants, entries and held-out errors come out; wrong tables are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from windtunnel.cost import gemm
from windtunnel.cost.calibration.run import calibrate_folder, write
from windtunnel.cost.device import device_of
from windtunnel.errors import TraceError
from windtunnel.specs.load import resolve


def frame() -> pl.DataFrame:
    """Products of an H100 as the package's tables hold them, with the model's own times and a little noise."""
    rng = np.random.default_rng(3)
    sizes = np.array([(m, n, k) for m in (1, 16, 128, 1024, 8192) for n in (512, 2048, 8192) for k in (1024, 4096, 8192)
                      for _ in range(4)], dtype=float)  # fmt: skip
    m, n, k = sizes.T
    seconds = gemm.gemm_seconds(m, n, k, device_of(resolve("accelerators", "h100-sxm")))
    return pl.DataFrame(
        {
            "framework": "VLLM",
            "version": "0.24.0",
            "device": "NVIDIA H100 80GB HBM3",
            "op_name": "gemm",
            "kernel_source": "vllm_default",
            "gemm_dtype": "bfloat16",
            "m": m.astype(int),
            "n": n.astype(int),
            "k": k.astype(int),
            "latency": seconds * 1e3 * rng.lognormal(0.0, 0.02, len(m)),
        }
    )


def folder(path: Path, table: pl.DataFrame) -> Path:
    place = path / "h100_sxm" / "gemm" / "trtllm" / "1.0"
    place.mkdir(parents=True)
    table.write_parquet(place / "gemm_perf.parquet")
    return path


def test_a_good_folder_gives_entries_with_their_origin(tmp_path: Path) -> None:
    found = calibrate_folder(folder(tmp_path, frame()))
    assert found["h100-sxm"].fits["gemm.bf16"].median_error < 0.05
    (path,) = write(found, tmp_path, "2026-11")
    entry = yaml.safe_load(path.read_text())
    assert entry["samples"]["gemm.bf16"] == 180
    assert "trtllm 1.0" in entry["sources"][0]["source"]
    assert entry["sources"][0]["date"] == "2026-11"


WRONG: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "seconds": (lambda t: t.with_columns(pl.col("latency") / 1000), "is the unit milliseconds"),
    "microseconds": (lambda t: t.with_columns(pl.col("latency") * 1000), "is the unit milliseconds"),
    "negative": (lambda t: t.with_columns(-pl.col("latency")), "at least 0"),
    "unknown": (lambda t: t.with_columns(colour=pl.lit(1)), "unknown column"),
    "missing": (lambda t: t.drop("k"), "column is missing"),
    "device": (lambda t: t.with_columns(device=pl.lit("NVIDIA A100-SXM4-80GB")), "another device"),
    "contradicts": (
        lambda t: pl.concat([t, t.with_columns(pl.col("latency") * 9)]),
        "contradicting times",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_refused(tmp_path: Path, name: str) -> None:
    change, said = WRONG[name]
    with pytest.raises(TraceError, match=said):
        calibrate_folder(folder(tmp_path, change(frame())))


def test_an_empty_folder_and_an_unknown_device_say_so(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no measured kernels"):
        calibrate_folder(tmp_path)
    with pytest.raises(TraceError, match="no tables are known of it"):
        calibrate_folder(tmp_path, ["mi300x"])
