"""Values of a trace's columns as numbers: a fast path on arrays, and a slow one that names what is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.workload.faults import LONGEST_TOKENS, Faults
from windtunnel.workload.table import Floats, Ints

NO_LIMIT = 2**53
"""Largest whole number that a float holds exactly."""


def whole(
    values: Sequence[Any], lines: Sequence[int], column: str, faults: Faults, least: int = 1, most: int = LONGEST_TOKENS
) -> Ints:
    """Whole numbers from text or JSON values; faulty ones are noted and stand as `least`.

    Args:
        values: text or JSON values.
        lines: line of the file that each value stands on.
        column: name of the column in the file.
        faults: where faults are noted.
        least: smallest value allowed.
        most: largest value allowed.
    """
    numbers = _fast(values)
    if numbers is not None and _is_whole(numbers, least, most):
        return numbers.astype(np.int64)
    result = np.full(len(values), least, dtype=np.int64)
    for i, value in enumerate(values):
        number = _number(value)
        if number is None:
            faults.add("not a number", lines[i], column, value, f"a whole number from {least} to {most:,}")
        elif not math.isfinite(number):
            faults.add("not a finite number", lines[i], column, value, f"a whole number from {least} to {most:,}")
        elif number != math.floor(number):
            faults.add("not a whole number", lines[i], column, value, f"a whole number from {least} to {most:,}")
        elif number < least:
            faults.add(f"below {least}", lines[i], column, value, f"a whole number from {least} to {most:,}")
        elif number > most:
            faults.add("implausibly large", lines[i], column, value, f"a whole number from {least} to {most:,}")
        else:
            result[i] = int(number)
    return result


def reals(
    values: Sequence[Any], lines: Sequence[int], column: str, faults: Faults, least: float = 0.0, unit: str = "seconds"
) -> Floats:
    """Finite numbers of at least `least`; faulty ones are noted and stand as `least`."""
    numbers = _fast(values)
    if numbers is not None and bool(np.all(np.isfinite(numbers)) and np.all(numbers >= least)):
        return numbers
    result = np.full(len(values), least, dtype=np.float64)
    for i, value in enumerate(values):
        number = _number(value)
        if number is None or not math.isfinite(number):
            message = "not a number" if number is None else "not a finite number"
            faults.add(message, lines[i], column, value, f"a number of {unit}, at least {least:g}")
        elif number < least:
            faults.add("negative" if least == 0 else f"below {least:g}", lines[i], column, value, f"at least {least:g}")
        else:
            result[i] = number
    return result


def dates(values: Sequence[Any], lines: Sequence[int], column: str, faults: Faults) -> npt.NDArray[np.int64]:
    """Nanoseconds since 1970 (UTC) from ISO 8601 text; text without a zone is taken as UTC."""
    try:
        first = str(values[0])
        zone = first[-6:] if first.endswith(("+00:00", "-00:00")) else "Z" if first.endswith("Z") else ""
        texts = [text.removesuffix(zone) for text in values] if zone else list(values)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where a text still holds a zone: the slow way reads it
            stamps = np.array(texts, dtype="datetime64[ns]")
        if not np.any(np.isnat(stamps)):
            return stamps.astype(np.int64)
    except (ValueError, TypeError, AttributeError, UserWarning, DeprecationWarning):
        pass
    result = np.zeros(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        try:
            stamp = datetime.fromisoformat(str(value).strip())
        except ValueError:
            faults.add("not a date and time", lines[i], column, value, "ISO 8601, such as 2023-11-16 18:15:46.680")
            continue
        stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        since = stamp - datetime(1970, 1, 1, tzinfo=UTC)
        result[i] = ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    return result


def is_number(value: Any) -> bool:
    """Whether a value of a column reads as a number."""
    return _number(value) is not None


def _fast(values: Sequence[Any]) -> Floats | None:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return numbers if numbers.ndim == 1 else None  # JSON lists of equal length would make a table


def _is_whole(numbers: Floats, least: int, most: int) -> bool:
    # a nan fails every comparison, so the bounds also refuse what is not finite
    return bool(np.all((numbers >= least) & (numbers <= most) & (numbers == np.floor(numbers))))


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool | list | dict):
        return None
    try:
        return float(value)
    except (ValueError, TypeError):
        return None
    except OverflowError:
        return math.inf
