"""Windtunnel's own profiles, and Vidur's: read as written, wrong ones refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import shared_file

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.device import device_of
from windtunnel.cost.gemm import gemm_seconds
from windtunnel.cost.measured.profile import Provenance, write_profile
from windtunnel.cost.measured.read import read_kernels
from windtunnel.cost.price import pricing_of, seconds_of
from windtunnel.cost.steps import price_step
from windtunnel.errors import TraceError
from windtunnel.operators.batch import decode_batch
from windtunnel.operators.expand import token_operators
from windtunnel.report.explain import explain_step, explain_text
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import load, resolve

H100 = resolve("accelerators", "h100-sxm")
SHAPES = ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))
"""The layers of Llama 3.1 8B."""


def gemm_rows(scale: float = 1.0, dtype: str = "bf16") -> list[dict[str, Any]]:
    device = device_of(H100)
    return [
        {
            "n": n,
            "k": k,
            "weight_dtype": dtype,
            "compute_dtype": dtype,
            "rows": rows,
            "seconds": scale * 1.1 * float(gemm_seconds(rows, n, k, device, dtype, dtype)),
        }
        for n, k in SHAPES
        for rows in (1, 16, 64, 256, 1024, 2048)
    ]


def profile(folder: Path, rows: list[dict[str, Any]] | None = None, device: str = "h100-sxm") -> Path:
    write_profile(folder, Provenance(device, "2026-11-21", "a test"), {"gemm": rows or gemm_rows()})
    return folder


def test_a_profile_prices_what_it_holds_and_nothing_else(tmp_path: Path) -> None:
    folder = profile(tmp_path / "kernels")
    file = tmp_path / "mine.yaml"
    file.write_text("extends: h100-sxm\nkernels: kernels\n")
    mine = deployment("meta-llama/Llama-3.1-8B", load("accelerators", str(file)))
    plain = deployment("meta-llama/Llama-3.1-8B", "h100-sxm")
    assert Path(mine.accelerator.kernels) == folder
    step, before = price_step(mine, decode_batch(16, 1000)), price_step(plain, decode_batch(16, 1000))
    for row, other in zip(step.operators, before.operators, strict=True):
        measured = row.operator.name in ("qkv", "attention out", "mlp gate and up", "mlp down")
        assert row.cost.source == ("measured" if measured else "calibrated")
        assert row.cost.seconds == pytest.approx((1.1 if measured else 1.0) * other.cost.seconds)
    assert step.source == "measured"
    text = explain_text(explain_step(mine, decode_batch(16, 1000), "a step"))
    assert "measured: qkv, attention out, mlp gate and up, mlp down" in " ".join(text.split())
    surface = step_surface(mine)
    tokens = sum(row.seconds for row in step.operators if row.operator.part == "tokens")
    assert surface.token_s[16] == pytest.approx(tokens)


def test_an_engine_may_run_measured_kernels_slower(tmp_path: Path) -> None:
    """`engine.kernels.measured` touches measured kernels alone, from the device's own tables or given ones."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: h100-sxm\nkernels: {profile(tmp_path / 'kernels').name}\n")
    accelerator = load("accelerators", str(file))
    engine = resolve("engines", "vllm")
    slower = engine.model_copy(update={"kernels": engine.kernels.model_copy(update={"measured": 0.8})})
    before, after = (deployment("meta-llama/Llama-3.1-8B", accelerator, engine=one) for one in (engine, slower))
    pairs = zip(*(price_step(one, decode_batch(16, 1000)).operators for one in (before, after)), strict=True)
    for a, b in pairs:
        assert b.cost.seconds == pytest.approx(a.cost.seconds / (0.8 if a.cost.source == "measured" else 1.0))
    plain = [deployment("meta-llama/Llama-3.1-8B", "h100-sxm", engine=one) for one in (engine, slower)]
    kernels = read_kernels(tmp_path / "kernels", plain[0].accelerator)
    operator = next(o for o in token_operators(plain[0].model, plain[0].plan, 64) if o.name == "qkv")
    a, b = (float(seconds_of(operator, *pricing_of(one, kernels))) for one in plain)
    assert b == pytest.approx(a / 0.8)


def with_spread(*spreads: object) -> list[dict[str, Any]]:
    """The products, each timing with a spread; the last one is of all that are left."""
    rows = gemm_rows()
    return [{**row, "spread": spreads[min(i, len(spreads) - 1)]} for i, row in enumerate(rows)]


@pytest.mark.parametrize("at", [-1.0, -0.5, 0.5, 1.0])
@pytest.mark.parametrize("rate", [1.0, 0.8])
def test_measured_kernels_lean_by_the_spread_of_their_timings(tmp_path: Path, at: float, rate: float) -> None:
    """All products alike, whether the tables are the device's own or given, and whatever rate a fit gave them."""
    # One timing that something disturbed says nothing of the machine.
    folder = profile(tmp_path / "kernels", with_spread(9.0, 0.1))
    file = tmp_path / "mine.yaml"
    file.write_text("extends: h100-sxm\nkernels: kernels\n")
    engine = resolve("engines", "vllm")
    engine = engine.model_copy(update={"kernels": engine.kernels.model_copy(update={"measured": rate})})
    own = deployment("meta-llama/Llama-3.1-8B", load("accelerators", str(file)), engine=engine)
    plain = deployment("meta-llama/Llama-3.1-8B", "h100-sxm", engine=engine)
    given = read_kernels(folder, plain.accelerator)
    assert given.spreads == {"gemm": pytest.approx(0.1)}
    for one, kernels in ((own, None), (plain, given)):
        (device, links), (moved, moved_links) = pricing_of(one, kernels), pricing_of(one, kernels, at)
        for operator in token_operators(one.model, one.plan, 64):
            if operator.name in ("qkv", "attention out", "mlp gate and up", "mlp down"):
                ratio = seconds_of(operator, moved, moved_links) / seconds_of(operator, device, links)
                np.testing.assert_allclose(ratio, 1.1**at, rtol=1e-9)


def test_a_wider_spread_gives_a_wider_interval_of_steps(tmp_path: Path) -> None:
    plain = deployment("meta-llama/Llama-3.1-8B", "h100-sxm")
    widths = []
    for name, rows in (("none", gemm_rows()), ("calm", with_spread(0.05)), ("noisy", with_spread(0.4))):
        kernels = read_kernels(profile(tmp_path / name, rows), plain.accelerator)
        low, nominal, high = (price_step(plain, decode_batch(16, 1000), kernels, at).total_s for at in (-1.0, 0.0, 1.0))
        assert low < nominal < high
        surfaces = [step_surface(plain, kernels, at=at).token_s[16] for at in (-1.0, 0.0, 1.0)]
        assert surfaces == sorted(surfaces)
        widths.append(high / low)
    assert widths == sorted(widths)
    assert widths[2] > 1.4 * widths[0]


def test_beyond_the_table_the_model_takes_over(tmp_path: Path) -> None:
    plain = deployment("meta-llama/Llama-3.1-8B", "h100-sxm")
    kernels = read_kernels(profile(tmp_path / "kernels"), plain.accelerator)
    device, links = pricing_of(plain, kernels)
    for operator in token_operators(plain.model, plain.plan, np.array([2048.0, 2049.0])):
        if operator.name == "qkv":
            inside, beyond = seconds_of(operator, device, links)
            modelled = seconds_of(operator, device_of(plain.accelerator), links)
            assert inside == pytest.approx(1.1 * modelled[0])
            assert beyond == pytest.approx(modelled[1])


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_units_off_by_a_thousand_are_seen(tmp_path: Path, scale: float) -> None:
    with pytest.raises(TraceError, match="is the unit right"):
        read_kernels(profile(tmp_path / "kernels", gemm_rows(scale)), H100)


def test_another_devices_kernels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="measured on a100-80g-sxm, not on h100-sxm"):
        read_kernels(profile(tmp_path / "kernels", device="a100-80g-sxm"), H100)


def _spoiled(**changes: object) -> list[dict[str, Any]]:
    rows = gemm_rows()
    rows[3] = {**rows[3], **changes}
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (_spoiled(seconds=-1e-5), "must not be negative"),
        (_spoiled(seconds=0.0), "a kernel takes time"),
        (_spoiled(seconds=float("nan")), "not a number"),
        (with_spread(0.1, -0.1), "must not be negative"),
        (with_spread(0.1, None), "not a number"),
        ([*gemm_rows(), {**gemm_rows()[0], "seconds": 1.0}], "contradicts an earlier row"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_kernels(profile(tmp_path / "kernels", rows), H100)


def test_unknown_columns_formats_and_folders(tmp_path: Path) -> None:
    import polars as pl

    folder = profile(tmp_path / "kernels")
    pl.DataFrame([{**row, "watts": 1.0} for row in gemm_rows()]).write_parquet(folder / "gemm.parquet")
    with pytest.raises(TraceError, match="unknown column"):
        read_kernels(folder, H100)
    (folder / "gemm.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TraceError, match="cannot read the table"):
        read_kernels(folder, H100)
    (folder / "profile.yaml").write_text("format: windtunnel-profile-9\ndevice: h100-sxm\n")
    with pytest.raises(TraceError, match="not a profile of this version"):
        read_kernels(folder, H100)
    with pytest.raises(TraceError, match="no measured kernels that are known"):
        read_kernels(tmp_path, H100)
    with pytest.raises(TraceError, match="no such file or folder"):
        read_kernels(tmp_path / "nowhere", H100)


def test_vidur_layers_agree_with_the_model_they_check() -> None:
    path = shared_file("data", "kernels", "vidur_a100_Llama-2-7b-hf_mlp.csv")
    a100 = resolve("accelerators", "a100-80g-sxm")
    kernels = read_kernels(path, a100)
    plain = deployment("meta-llama/Llama-2-7b-hf", a100)
    device, links = pricing_of(plain, kernels)
    for operator in token_operators(plain.model, plain.plan, 2048.0):
        if operator.name in ("qkv", "attention out", "mlp gate and up", "mlp down"):
            measured = float(seconds_of(operator, device, links))
            assert measured == pytest.approx(float(seconds_of(operator, device_of(a100), links)), rel=0.3)


def test_vidur_all_reduce_and_wrong_units(tmp_path: Path) -> None:
    path = shared_file("data", "kernels", "vidur_a100_dgx_all_reduce.csv")
    kernels = read_kernels(path, resolve("accelerators", "a100-80g-sxm"))
    found = kernels.tables["collective", "all_reduce", 8]
    assert 1e-5 < float(found.at(1e6)) < 1e-3
    layers = shared_file("data", "kernels", "vidur_a100_Llama-2-7b-hf_mlp.csv")
    with pytest.raises(TraceError, match="is the unit right"):
        read_kernels(_scaled(layers, tmp_path / "layers.csv"), resolve("accelerators", "a100-80g-sxm"))


def _scaled(source: Path, target: Path) -> Path:
    import polars as pl

    frame = pl.read_csv(source)
    frame.with_columns(pl.col("^time_stats.*median$") / 1000.0).write_csv(target)
    return target
