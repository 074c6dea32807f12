"""Compare a table of measured results with predictions: the work behind `windtunnel validate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import TraceError
from windtunnel.evidence.check import table_problems, unit_problems
from windtunnel.evidence.inferencex import inferencex_claims
from windtunnel.evidence.intervals import with_interval
from windtunnel.evidence.outcomes import predict_all
from windtunnel.evidence.scenario import Claim, Outcome, Scenario
from windtunnel.evidence.score import Result, record
from windtunnel.evidence.serving import claims_of
from windtunnel.evidence.table import Table, read_table
from windtunnel.evidence.training import training_claims

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Validation:
    """A table compared.

    Attributes:
        table: the rows that were compared.
        claims: what they measured, two a row in an InferenceX table.
        results: predictions of the claims that could be expressed.
        whys: why the others could not, by claim.
    """

    table: Table
    claims: tuple[Claim, ...]
    results: tuple[Result, ...]
    whys: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The record that `--json` writes."""
        return record(self.results, self.claims, self.whys)


def validate(
    path: Path | str, *, tier: str = "", split: str = "", workers: int = 0, progress: Progress | None = None
) -> Validation:
    """Predict every row of a table that can be expressed.

    Args:
        path: a CSV file in one of the three formats.
        tier, split: keep these rows only; empty keeps all. InferenceX rows are all of tier A.
        workers: processes; 0 takes one per processor.
        progress: called with (done, all) set-ups.

    Raises:
        TraceError: the table cannot be read, contradicts itself, or its units are off by a factor of 1,000.
    """
    table = read_table(Path(path))
    problems = table_problems(table)
    if problems:
        raise TraceError(problems)
    kept = table.keep(split=split, tier="" if table.format == "inferencex" else tier)
    claims = claims_from(kept) if not (table.format == "inferencex" and tier not in ("", "A")) else []
    outcomes = predict_all([c.scenario for c in claims if c.scenario is not None], workers, progress)
    results, whys = compare(claims, outcomes)
    problems = unit_problems(table.path, results)
    if problems:
        raise TraceError(problems)
    return Validation(kept, tuple(claims), tuple(results), whys)


def claims_from(table: Table) -> list[Claim]:
    """The claims of a table of any format."""
    readers = {"serving": claims_of, "inferencex": inferencex_claims, "training": training_claims}
    return readers[table.format](table)


def compare(claims: Sequence[Claim], outcomes: Mapping[Scenario, Outcome]) -> tuple[list[Result], dict[str, str]]:
    """Predictions of the claims, and why the others have none."""
    results, whys = [], {}
    for claim in claims:
        if math.isfinite(claim.predicted):
            results.append(with_interval(Result(claim, claim.predicted, math.nan, math.nan, claim.provenance)))
            continue
        outcome = outcomes[claim.scenario] if claim.scenario is not None else None
        value = outcome.values.get(claim.value) if outcome is not None else None
        if outcome is None or value is None:
            whys[claim.id] = claim.why or (outcome.why_not if outcome else "") or f"no {claim.value} in this mode"
            continue
        results.append(with_interval(Result(claim, claim.factor * value, math.nan, math.nan, outcome.provenance)))
    return results, whys
