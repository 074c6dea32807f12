"""Reading tables of results: formats by their columns, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from windtunnel.errors import TraceError
from windtunnel.evidence.check import table_problems
from windtunnel.evidence.table import read_table, table_columns

SERVING = {
    "id": "S1", "source": "somebody's table", "model": "Llama 2 70B", "dtype_weights": "fp8", "dtype_kv": "fp8",
    "gpu": "H100-SXM-80GB", "n_gpus": "2", "tp": "2", "pp": "1", "engine": "TensorRT-LLM", "engine_version": "0.9.0",
    "mode": "static batch", "input_len": "128", "output_len": "128", "concurrency_or_batch": "64",
    "metric_name": "output_throughput", "metric_value": "3000", "unit": "tok/s", "tier": "A",
    "group": "somebody|Llama 2 70B|H100-SXM-80GB", "split": "check",
}  # fmt: skip
INFERENCEX = {
    "id": "X1", "backend": "vllm", "backend_version": "0.17.0", "model_path": "meta-llama/Llama-3.1-70B",
    "system": "b200_sxm", "precision": "fp8", "mode": "agg", "isl": "1024", "osl": "1024", "gemm_quant_mode": "fp8",
    "moe_quant_mode": "fp8", "batch_size": "8.0", "tp_size": "2.0", "pp_size": "1.0", "attention_dp_size": "1.0",
    "moe_tp_size": "2.0", "moe_ep_size": "1.0", "silicon_ttft_ms": "90", "silicon_tpot_ms": "11", "concurrency": "8",
}  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A CSV file of rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def problems_of(tmp_path: Path, *rows: Mapping[str, str]) -> str:
    """What is wrong with a table, as text."""
    return "\n".join(str(one) for one in table_problems(read_table(write(tmp_path / "t.csv", rows))))


@pytest.mark.parametrize(("row", "format_"), [(SERVING, "serving"), (INFERENCEX, "inferencex")])
def test_the_columns_tell_the_format(tmp_path: Path, row: Mapping[str, str], format_: str) -> None:
    assert read_table(write(tmp_path / "t.csv", [row])).format == format_


def test_a_training_table_is_told_apart(tmp_path: Path) -> None:
    row = dict.fromkeys(table_columns().formats["training"].columns, "1")
    assert read_table(write(tmp_path / "t.csv", [row])).format == "training"


def test_tier_and_split_may_be_missing(tmp_path: Path) -> None:
    row = {k: v for k, v in SERVING.items() if k not in ("tier", "split", "group")}
    assert problems_of(tmp_path, row) == ""


def test_keep_filters_by_column(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", [SERVING, SERVING | {"id": "S2", "tier": "B"}]))
    assert [row.text("id") for row in table.keep(tier="A").rows] == ["S1"]
    assert len(table.keep(tier="").rows) == 2


def test_an_unknown_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"'metric_valu'.*did you mean 'metric_value'"):
        read_table(write(tmp_path / "t.csv", [SERVING | {"metric_valu": "1"}]))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "id,model\n", "\x00\x01"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TraceError):
        read_table(path)


def test_a_ragged_row_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [SERVING])
    path.write_text(path.read_text(encoding="utf-8") + "S2,only,three\n", encoding="utf-8")
    with pytest.raises(TraceError, match="more or fewer cells"):
        read_table(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric_value": "-3"}, "cannot be negative"),
        ({"metric_value": "0"}, "cannot be negative or zero"),
        ({"metric_value": "fast"}, "finite number"),
        ({"input_len": "-128"}, "count cannot be negative"),
        ({"gpu": "A100-40GB"}, "not the one that the row's group names"),
        ({"tp": "8"}, "does not fit 2 devices"),
        ({"id": ""}, "no id"),
    ],
)
def test_what_cannot_be_is_reported_with_its_line(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    found = problems_of(tmp_path, SERVING | changed)
    assert message in found
    assert "line 2" in found


def test_negative_times_of_inferencex(tmp_path: Path) -> None:
    assert "cannot be negative" in problems_of(tmp_path, INFERENCEX | {"silicon_ttft_ms": "-90"})


def test_an_id_twice(tmp_path: Path) -> None:
    assert "used twice (first in line 2)" in problems_of(tmp_path, SERVING, SERVING)


def test_a_row_that_contradicts_another(tmp_path: Path) -> None:
    found = problems_of(tmp_path, SERVING, SERVING | {"id": "S2", "metric_value": "4500"})
    assert "contradicts line 2" in found


def test_a_row_that_repeats_another(tmp_path: Path) -> None:
    assert "repeats line 2" in problems_of(tmp_path, SERVING, SERVING | {"id": "S2"})


def test_many_problems_are_cut_short(tmp_path: Path) -> None:
    rows = [SERVING | {"id": f"S{i}", "metric_value": "-1", "input_len": str(i)} for i in range(40)]
    found = table_problems(read_table(write(tmp_path / "t.csv", rows)))
    assert len(found) == 21
    assert "20 more" in str(found[-1])
