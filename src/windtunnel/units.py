"""Parse and print quantities. Inside Windtunnel everything is SI; this is the only place that converts.

Bytes: `GB` is 1e9 and `GiB` is 2**30. Link rates are bytes per second; `Gb/s` and `Gbps`
(gigabits) are converted here, once. Numbers without a unit are taken as SI.
"""

from __future__ import annotations

import math
import re

_PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_TIME = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")


def _split(text: str) -> tuple[float, str]:
    match = _NUMBER.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a number with a unit")
    return float(match.group(1).replace("_", "")), match.group(2)


def _factor(unit: str, base: str) -> float:
    """The factor of `prefix + base`, for example ("GiB", "B")."""
    stem = unit.removesuffix(base)
    if stem in _BINARY:
        return _BINARY[stem]
    if stem in _PREFIX:
        return _PREFIX[stem]
    raise ValueError(f"unknown unit {unit!r}")


def _parse(value: object, kind: str, unit_factor: dict[str, float] | None, bases: tuple[str, ...]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a {kind} must be a number or text such as the examples")
    if not isinstance(value, str):
        number = float(value)
    else:
        number, unit = _split(value)
        if unit and unit_factor is not None:
            if unit not in unit_factor:
                raise ValueError(f"unknown unit {unit!r} of a {kind}; allowed: {', '.join(unit_factor)}")
            number *= unit_factor[unit]
        elif unit:
            base = next((b for b in bases if unit.endswith(b)), None)
            if base is None:
                raise ValueError(f"unknown unit {unit!r} of a {kind}; allowed: a prefix and {' or '.join(bases)}")
            number *= _factor(unit, base) / (8.0 if base.startswith("b") else 1.0)
    if not math.isfinite(number):
        raise ValueError(f"a {kind} must be finite")
    return number


def parse_seconds(value: object) -> float:
    """Seconds from `2`, `"50ms"`, `"1.5 min"`.

    >>> parse_seconds("50ms")
    0.05
    """
    return _parse(value, "duration", _TIME, ())


def parse_bytes(value: object) -> float:
    """Bytes from `80e9`, `"80 GB"` (1e9) or `"80 GiB"` (2**30).

    >>> parse_bytes("2 KiB")
    2048.0
    """
    return _parse(value, "size", None, ("B",))


def parse_bytes_per_s(value: object) -> float:
    """Bytes per second from `"900 GB/s"`, or from bits: `"400 Gb/s"`, `"400 Gbps"`.

    >>> parse_bytes_per_s("400 Gb/s")
    50000000000.0
    """
    if isinstance(value, str):
        value = value.replace("bps", "b/s").replace("bit/s", "b/s")
    return _parse(value, "rate", None, ("B/s", "b/s"))


def parse_flops_per_s(value: object) -> float:
    """FLOP per second from `"989 TFLOP/s"`, `"989 TFLOPS"` or `"2 POP/s"`."""
    if isinstance(value, str):
        value = value.replace("FLOPS", "FLOP/s").replace("OPS", "OP/s").replace("FLOP/s", "OP/s")
    return _parse(value, "compute rate", None, ("OP/s",))


def parse_hertz(value: object) -> float:
    """Hertz from `"1.83 GHz"`."""
    return _parse(value, "frequency", None, ("Hz",))


def parse_watts(value: object) -> float:
    """Watts from `"700 W"`."""
    return _parse(value, "power", None, ("W",))


def parse_count(value: object) -> float:
    """A count from `4096`, `"128k"` or `"4M"` (decimal prefixes)."""
    return _parse(value, "count", {p: f for p, f in _PREFIX.items() if p}, ())


def _scaled(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            scaled = value / factor
            return f"{scaled:.{digits}g} {unit}" if abs(scaled) < 1000 else f"{scaled:,.0f} {unit}"
    factor, unit = steps[-1]
    return f"{value / factor:.{digits}g} {unit}"


def format_seconds(value: float, digits: int = 3) -> str:
    """A duration as a person writes it.

    >>> format_seconds(0.0503)
    '50.3 ms'
    """
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 172800.0:
        return _scaled(value, [(86400.0, "d")], digits)
    if abs(value) >= 7200.0:
        return f"{value / 3600.0:.{digits}g} h"
    if abs(value) >= 120.0:
        return f"{value / 60.0:.{digits}g} min"
    return _scaled(value, [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")], digits)


def format_bytes(value: float, digits: int = 3) -> str:
    """A size in binary units, as memory is quoted (GiB).

    >>> format_bytes(2**30)
    '1 GiB'
    """
    return _scaled(value, [(2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")], digits)


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """A quantity with an SI prefix.

    >>> format_si(989e12, "FLOP/s")
    '989 TFLOP/s'
    """
    steps = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]
    return _scaled(value, [(factor, prefix + unit) for factor, prefix in steps], digits).rstrip()


def format_usd(value: float) -> str:
    """Money, in US dollars.

    >>> format_usd(12.5)
    '$12.50'
    """
    return f"${value:,.2f}" if abs(value) >= 1 else f"${value:.3g}"
