"""A validation as text for the terminal: the whole, then by group, then why rows are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

MOST_GROUPS = 14
MOST_REASONS = 10


def validation_text(answer: Mapping[str, Any], path: str) -> str:
    """The answer of `windtunnel validate` on a table.

    Args:
        answer: as `Validation.as_dict()` gives it.
        path: the table's file.
    """
    lines = [f"{path}: {answer['rows']:,} figures, {answer['expressed']:,} predicted", _head(), _line("all", answer)]
    for group, members in answer["by"].items():
        lines += ["", f"by {group}"]
        known = sorted(members.items(), key=lambda item: -item[1]["expressed"])
        lines += [_line(name or "(not stated)", one) for name, one in known[:MOST_GROUPS]]
        if len(known) > MOST_GROUPS:
            lines.append(f"  ... and {len(known) - MOST_GROUPS} more (see --json)")
    reasons = Counter(str(one["why"]) for one in answer["not_expressed"])
    if reasons:
        lines += ["", "not predicted"]
        lines += [f"  {count:6,}  {why}" for why, count in reasons.most_common(MOST_REASONS)]
        if len(reasons) > MOST_REASONS:
            lines.append(f"  ... and {len(reasons) - MOST_REASONS} more reasons (see --json)")
    return "\n".join(lines)


def _head() -> str:
    return f"{'':40s} {'rows':>7s} {'predicted':>9s} {'median':>7s} {'p90':>7s} {'bias':>7s} {'in 80 %':>7s}"


def _line(name: str, one: Mapping[str, Any]) -> str:
    shares = [_percent(one["median_abs_error"]), _percent(one["p90_abs_error"]), _percent(one["bias"], sign=True)]
    numbers = f"{one['rows']:7,} {one['expressed']:9,} {shares[0]:>7s} {shares[1]:>7s} {shares[2]:>7s}"
    return f"{name[:40]:40s} {numbers} {_percent(one['coverage80']):>7s}"


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f}%" if sign else f"{100 * value:.1f}%"
