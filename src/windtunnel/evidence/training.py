"""Rows of a training table as claims, and the seam through which the training model predicts them."""

from __future__ import annotations

import math

from windtunnel.evidence.scenario import Claim
from windtunnel.evidence.serving import tags_of
from windtunnel.evidence.table import Row, Table


def predict_training(row: Row) -> tuple[float, str] | str:
    """(prediction in the row's own unit, provenance) of a training row, or why there is none."""
    return f"metric {row.text('metric_name')} of training is not predicted by this version"


def training_claims(table: Table) -> list[Claim]:
    """One claim a row."""
    return [_claim(row) for row in table.rows]


def _claim(row: Row) -> Claim:
    found = predict_training(row)
    predicted, provenance = (math.nan, "") if isinstance(found, str) else found
    return Claim(
        id=row.text("id"),
        line=row.line,
        measured=row.number("metric_value"),
        value=row.text("metric_name"),
        factor=1.0,
        scenario=None,
        why=found if isinstance(found, str) else "",
        tags=tags_of(row) | {"mode": "training"},
        predicted=predicted,
        provenance=provenance,
    )
