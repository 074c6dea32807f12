"""What is wrong with a table of measured results, before and after it is compared with predictions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from windtunnel.errors import Problem
from windtunnel.evidence.score import Result
from windtunnel.evidence.table import Row, Table, table_columns

SHOWN = 20
"""Problems reported at a time; more would only hide the first."""
THOUSAND = (300.0, 3000.0)
"""Measured over predicted, or the other way round: no sound row is this far off, a unit mistaken by 1,000 is."""
AGREE = 1.005
"""Figures of one set-up that differ by less than this are the same figure twice."""


def table_problems(table: Table) -> list[Problem]:
    """Figures that cannot be, rows twice, rows that contradict each other, layouts that do not fit the devices."""
    problems: list[Problem] = []
    for row in table.rows:
        problems += _figure_problems(table, row) + _device_problems(table, row)
    problems += _repeated(table)
    if len(problems) > SHOWN:
        more = Problem(f"and {len(problems) - SHOWN} more problems", table.path)
        problems = [*problems[:SHOWN], more]
    return problems


def _at(row: Row, column: str) -> str:
    return f"line {row.line}, column {column}"


def _figure_problems(table: Table, row: Row) -> list[Problem]:
    found = []
    for column in table_columns().formats[table.format].measured:
        value = row.number(column)
        if not math.isfinite(value):
            message = "a measured figure must be a finite number"
            found.append(Problem(message, table.path, _at(row, column), repr(row.text(column)), "a number above 0"))
        elif value <= 0:
            message = "a measured figure cannot be negative or zero"
            found.append(Problem(message, table.path, _at(row, column), row.text(column), "a number above 0"))
    for column in table_columns().formats[table.format].counts:
        value = row.number(column)
        if value < 0:
            message = "a count cannot be negative"
            found.append(Problem(message, table.path, _at(row, column), row.text(column), "0 or more"))
    if not row.text("id"):
        found.append(Problem("the row has no id", table.path, _at(row, "id")))
    return found


def _device_problems(table: Table, row: Row) -> list[Problem]:
    """The layout against the number of devices, and the device against the group that names it too."""
    found = []
    group, gpu = row.text("group").split("|"), row.text("gpu")
    if table.format != "inferencex" and len(group) >= 3 and gpu and group[-1] != gpu:
        message = "the device is not the one that the row's group names"
        found.append(Problem(message, table.path, _at(row, "gpu"), repr(gpu), repr(group[-1])))
    if table.format == "inferencex" and len(group) >= 2 and group[1] != row.text("system"):
        message = "the device is not the one that the row's group names"
        found.append(Problem(message, table.path, _at(row, "system"), repr(row.text("system")), repr(group[1])))
    total = row.count("n_gpus")
    if table.format == "serving" and total:
        ranks = max(1, row.count("tp", 1)) * max(1, row.count("pp", 1))
        if ranks > total:
            message = f"TP x PP of {ranks} ranks does not fit {total} devices"
            found.append(Problem(message, table.path, _at(row, "n_gpus"), str(total), f"at least {ranks}"))
    return found


def _repeated(table: Table) -> list[Problem]:
    """Ids used twice, and set-ups with two different figures."""
    problems: list[Problem] = []
    by_id: dict[str, int] = {}
    by_setup: defaultdict[tuple[tuple[str, str], ...], list[Row]] = defaultdict(list)
    measured = table_columns().formats[table.format].measured
    for row in table.rows:
        name = row.text("id")
        if name and name in by_id:
            message = f"the id is used twice (first in line {by_id[name]})"
            problems.append(Problem(message, table.path, _at(row, "id"), repr(name)))
            continue
        by_id[name] = row.line
        if table.format == "inferencex" or row.text("tier") not in ("", "A"):
            continue  # dumps hold one measurement under several ids; loose rows lack what would tell them apart
        setup = tuple(
            (k, v.strip()) for k, v in row.cells.items() if k not in ("id", "group", "split", *measured) and v
        )
        by_setup[setup].append(row)
    for rows in by_setup.values():
        problems += _contradictions(table, rows, measured)
    return problems


def _contradictions(table: Table, rows: Sequence[Row], measured: Sequence[str]) -> list[Problem]:
    problems = []
    first = rows[0]
    for row in rows[1:]:
        for column in measured:
            a, b = first.number(column), row.number(column)
            if not (a > 0 and b > 0):
                continue
            same = max(a, b) / min(a, b) < AGREE
            what = "repeats" if same else "contradicts"
            message = f"the row {what} line {first.line}: the same set-up measured {first.text(column)}"
            problems.append(Problem(message, table.path, _at(row, column), row.text(column)))
            break
    return problems


def unit_problems(path: str, results: Sequence[Result]) -> list[Problem]:
    """Rows whose figure is about 1,000 times too large or too small for anything the set-up could do.

    A time to the first token may hold any queue, and rows below tier A may lack what decides: those are
    reported only where most of their source's figures of the kind are off alike.
    """
    kinds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for result in results:
        kinds[_kind(result)].append(_times(result))
    problems = []
    for result in results:
        metric = result.tag("metric")
        firm = result.tag("tier") in ("", "A") and not metric.startswith(("ttft", "first_token", "e2e_latency_"))
        times = _times(result) if firm else median(kinds[_kind(result)])
        if THOUSAND[0] <= times <= THOUSAND[1] and THOUSAND[0] <= _times(result) <= THOUSAND[1]:
            size = "larger" if result.claim.measured > result.predicted else "smaller"
            message = (
                f"row {result.claim.id}: the figure is {_times(result):,.0f} times {size} than this set-up could give; "
                f"its unit looks wrong by a factor of 1000"
            )
            where = f"line {result.claim.line}"
            allowed = f"about {result.predicted:.3g}"
            problems.append(Problem(message, path, where, f"{result.claim.measured:g}", allowed))
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], Problem(f"and {len(problems) - SHOWN} more rows", path)]
    return problems


def _kind(result: Result) -> tuple[str, str]:
    return result.tag("source"), result.tag("metric")


def _times(result: Result) -> float:
    """How many times larger one of measurement and prediction is than the other."""
    if not (result.predicted > 0 and result.claim.measured > 0):
        return 1.0
    ratio = result.claim.measured / result.predicted
    return max(ratio, 1.0 / ratio)
