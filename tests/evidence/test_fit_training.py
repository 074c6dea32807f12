"""The fit of sustained rates finds what a table was made with."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from windtunnel.cost.training import training_constants
from windtunnel.evidence.fit_training import Sustained, bias, entry_of, fit_shares, trying, write
from windtunnel.evidence.table import Row
from windtunnel.evidence.training import predict_training

CELLS = {
    "id": "T1", "source": "NVIDIA-NeMo/Megatron-Bridge docs", "model": "LLAMA3-70B", "gpu": "H100-SXM-80GB",
    "n_gpus": "64", "tp": "4", "pp": "8", "vpp": "5", "cp": "1", "ep": "1", "micro_batch": "1", "global_batch": "128",
    "seq_len": "8192", "dtype": "bf16", "metric_name": "tokens_per_sec_per_gpu", "metric_value": "800", "year": "2025",
    "tier": "A", "group": "g", "split": "fit", "recompute": "", "zero_stage": "", "dp": "", "notes": "", "params_B": "",
    "layers": "", "hidden": "", "heads": "", "ffn": "", "vocab": "",
}  # fmt: skip


def row(**changes: str) -> Row:
    return Row(2, CELLS | changes)


def shares() -> Sustained:
    return {name: dict(of) for name, of in training_constants().sustained.items()}


def test_a_row_is_about_its_devices_entry_and_format() -> None:
    assert entry_of(row(), shares()) == ("hopper", "default")
    assert entry_of(row(dtype="fp8-cs"), shares()) == ("hopper", "fp8")
    assert entry_of(row(source="somebody's blog"), shares()) is None


def test_other_shares_hold_for_the_block_alone() -> None:
    before = predict_training(row())
    slow = shares()
    slow["hopper"]["default"] *= 0.8
    with trying(slow):
        during = predict_training(row())
    assert isinstance(before, tuple)
    assert isinstance(during, tuple)
    assert during[0] < 0.95 * before[0]
    assert predict_training(row()) == before


def test_the_share_of_a_table_is_found_again(tmp_path: Path) -> None:
    made_with = shares()
    made_with["hopper"]["default"] = 0.55
    rows = [row(id=f"T{i}", model=model) for i, model in enumerate(("LLAMA3-70B", "LLAMA3.1-405B"))]
    with trying(made_with):
        figures = [predict_training(one) for one in rows]
    path = tmp_path / "training.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(CELLS))
        table.writeheader()
        for one, figure in zip(rows, figures, strict=True):
            if isinstance(figure, tuple):
                table.writerow({name: one.text(name) for name in CELLS} | {"metric_value": repr(figure[0])})
    ((entry, (share, count, left)),) = fit_shares(path).items()
    assert (entry, count) == (("hopper", "default"), sum(isinstance(one, tuple) for one in figures))
    assert share == pytest.approx(0.55, abs=0.005)
    assert abs(left) < 0.01


def test_figures_that_are_better_low_count_the_other_way() -> None:
    rate = predict_training(row())
    assert isinstance(rate, tuple)
    fast = row(metric_value=repr(rate[0] / 1.1))
    seconds = predict_training(row(metric_name="iteration_time_s"))
    assert isinstance(seconds, tuple)
    quick = row(metric_name="iteration_time_s", metric_value=repr(seconds[0] * 1.1))
    assert bias([fast]) == pytest.approx(bias([quick]), rel=1e-6)
    assert bias([fast]) > 0


def test_writing_changes_the_shares_alone(tmp_path: Path) -> None:
    path = tmp_path / "training.yaml"
    path.write_text("sustained:\n  hopper: {default: 0.69, fp8: 0.86}\n  gb200: {default: 0.75}\nother: 0.69\n")
    write({("hopper", "fp8"): 0.912, ("gb200", "default"): 0.7}, path)
    assert path.read_text() == (
        "sustained:\n  hopper: {default: 0.69, fp8: 0.91}\n  gb200: {default: 0.70}\nother: 0.69\n"
    )
