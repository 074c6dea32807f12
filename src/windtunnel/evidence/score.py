"""Errors of predictions against measurements: by row, and over groups of rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.evidence.scenario import Claim

GROUPS = ("family", "source", "gpu", "model", "metric", "tier", "split", "engine", "mode", "provenance")
"""What errors are grouped by, where rows say it."""


def family_of(metric: str) -> str:
    """What a metric measures: energy (joules and watts), throughput, latency, or something else."""
    if "energy" in metric or "power" in metric:
        return "energy"
    if "throughput" in metric:
        return "throughput"
    latencies = ("latency", "ttft", "tpot", "itl", "time_per_generated_token")
    return "latency" if any(part in metric for part in latencies) else "other"


def tag_of(claim: Claim, name: str) -> str:
    """The group that a claim belongs to."""
    return family_of(claim.tags.get("metric", "")) if name == "family" else claim.tags.get(name, "")


@dataclass(frozen=True, slots=True)
class Result:
    """A measured figure beside its prediction.

    Attributes:
        claim: the measured figure.
        predicted: in the table's unit.
        low, high: the 80 % interval; nan when not known.
        provenance: where the device's kernel constants come from.
    """

    claim: Claim
    predicted: float
    low: float
    high: float
    provenance: str

    @property
    def error(self) -> float:
        """Signed error relative to the measurement."""
        return self.predicted / self.claim.measured - 1.0

    @property
    def covered(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.low <= self.claim.measured <= self.high

    def tag(self, name: str) -> str:
        """The group that the row belongs to."""
        return self.provenance if name == "provenance" else tag_of(self.claim, name)

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in the JSON."""
        return {
            "id": self.claim.id,
            "measured": self.claim.measured,
            "predicted": self.predicted,
            "low": self.low,
            "high": self.high,
            "error": self.error,
            "provenance": self.provenance,
        }


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Median and 90th percentile of absolute errors, bias (median signed error), coverage; None without rows."""
    errors = np.array([result.error for result in results])
    known = [result.covered for result in results if math.isfinite(result.low)]
    if not len(errors):
        return {"expressed": 0, "median_abs_error": None, "p90_abs_error": None, "bias": None, "coverage80": None}
    return {
        "expressed": len(errors),
        "median_abs_error": float(np.median(np.abs(errors))),
        "p90_abs_error": float(np.percentile(np.abs(errors), 90)),
        "bias": float(np.median(errors)),
        "coverage80": float(np.mean(known)) if known else None,
    }


def record(results: Sequence[Result], claims: Sequence[Claim], whys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that `validate` reports, as plain values.

    Args:
        results: predictions.
        claims: all claims of the table, expressed or not.
        whys: why a claim is not expressed, by its id.
    """
    return {
        "rows": len(claims),
        **summary(results),
        "by": {group: _by(results, claims, group) for group in GROUPS if any(r.tag(group) for r in results)},
        "results": [result.as_dict() for result in results],
        "not_expressed": [{"id": claim.id, "why": whys[claim.id]} for claim in claims if claim.id in whys],
    }


def _by(results: Sequence[Result], claims: Sequence[Claim], group: str) -> dict[str, Any]:
    members: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        members[result.tag(group)].append(result)
    rows: defaultdict[str, int] = defaultdict(int)
    for claim in claims:
        rows[tag_of(claim, group)] += 1
    found = {}
    for name in sorted(set(members) | ({key for key in rows if key} if group != "provenance" else set())):
        found[name] = {"rows": rows.get(name, len(members[name])), **summary(members[name])}
    return found
