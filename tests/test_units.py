"""Parsing and printing of quantities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50ms", 0.05),
        ("2s", 2.0),
        ("1.5 min", 90.0),
        ("3 us", 3e-6),
        ("3 µs", 3e-6),
        ("1h", 3600.0),
        ("2", 2.0),
        (7, 7.0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(seconds)


def test_bytes_are_decimal_or_binary_as_written() -> None:
    assert units.parse_bytes("80 GB") == 80e9
    assert units.parse_bytes("80 GiB") == 80 * 2**30
    assert units.parse_bytes("1.5TB") == 1.5e12


def test_bits_become_bytes_once() -> None:
    assert units.parse_bytes_per_s("400 Gb/s") == units.parse_bytes_per_s("400 Gbps") == 50e9
    assert units.parse_bytes_per_s("400 GB/s") == 400e9


def test_rates_of_compute() -> None:
    assert units.parse_flops_per_s("989 TFLOP/s") == units.parse_flops_per_s("989 TFLOPS") == 989e12
    assert units.parse_flops_per_s("2 POPS") == 2e15
    assert units.parse_hertz("1.83 GHz") == 1.83e9
    assert units.parse_watts("30 kW") == 30e3
    assert units.parse_count("4M") == 4e6


@pytest.mark.parametrize("bad", ["", "x", "5 parsecs", "1e400 s", "nan", True, None, [1], "--2s"])
def test_nonsense_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"duration|number|unit"):
        units.parse_seconds(bad)


def test_durations_print_in_the_unit_a_person_would_choose() -> None:
    shown = [units.format_seconds(s) for s in (3e-6, 0.0503, 2.0, 90.0, 1800.0, 10800.0, 3 * 86400.0, math.inf)]
    assert shown == ["3 µs", "50.3 ms", "2 s", "90 s", "30 min", "3 h", "3 d", "-"]


def test_sizes_rates_and_money_print_scaled() -> None:
    assert units.format_bytes(80 * 2**30) == "80 GiB"
    assert units.format_si(3.352e12, "B/s") == "3.35 TB/s"
    assert units.format_usd(12.5) == "$12.50"
    assert units.format_usd(0.0435) == "$0.0435"


@given(st.floats(1e-9, 119.0))
def test_printed_durations_parse_back(seconds: float) -> None:
    assert units.parse_seconds(units.format_seconds(seconds, digits=6)) == pytest.approx(seconds, rel=1e-4)
