from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.files import cannot_write, replace_whole, write_atomic
from windtunnel.report.json import to_json
from windtunnel.report.text import WIDTH, number, paragraph, percent, table


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    target = write_atomic(tmp_path / "out.json", "{}\n")
    assert target.read_text() == "{}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")

    def half(path: Path) -> None:
        path.write_text("ne")
        raise error

    with pytest.raises(error):
        replace_whole(target, half)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_path_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    assert cannot_write(tmp_path / "new.json", "--json") is None
    assert cannot_write(tmp_path, "--json") is not None
    assert cannot_write(tmp_path / "none" / "new.json", "--json") is not None


@dataclass
class Row:
    value_s: float
    counts: np.ndarray


def test_json_has_no_nan() -> None:
    text = to_json({"row": Row(float("nan"), np.array([1.0, np.inf])), "n": np.int64(3), 4: (True, None)})
    assert json.loads(text) == {"row": {"value_s": None, "counts": [1.0, None]}, "n": 3, "4": [True, None]}


@given(
    st.recursive(
        st.floats() | st.text() | st.integers() | st.none(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_plain_value_is_valid_json(value: object) -> None:
    json.loads(to_json(value), parse_constant=lambda name: pytest.fail(name))


@given(st.lists(st.tuples(st.text("ab ", max_size=9), st.text("12.", max_size=9)), max_size=5))
def test_table_columns_line_up(rows: list[tuple[str, str]]) -> None:
    lines = table(("name", "n"), rows, "<>").split("\n")
    assert len(lines) == len(rows) + 2
    width = len(lines[1])
    assert all(len(line) <= width for line in lines)


def test_paragraphs_keep_to_the_width() -> None:
    text = paragraph("word " * 60, 2, "- ")
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert text.split("\n")[1].startswith("    word")


def test_numbers_for_people() -> None:
    assert [number(x) for x in (0.0, 1234567.0, 99.95, math.inf)] == ["0", "1,234,567", "100", "-"]
    assert percent(0.5) == "50.0%"
