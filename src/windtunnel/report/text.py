"""Plain-text building blocks: aligned tables and wrapped paragraphs, readable without colour."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

WIDTH = 80
"""Columns that every answer fits into."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "", indent: int = 0) -> str:
    """Rows under a header, columns aligned, two spaces apart.

    Args:
        header: column titles; all empty means no header line.
        rows: cells as text.
        align: one letter per column, `<` left or `>` right; missing ones are left.
        indent: spaces before each line.

    >>> print(table(("name", "GiB"), [("a", "80"), ("bb", "141")], "<>"))
    name  GiB
    ----  ---
    a      80
    bb    141
    """
    columns = len(header)
    sides = align.ljust(columns, "<")
    widths = [
        max(len(header[c]), *(len(row[c]) for row in rows), 0) if rows else len(header[c]) for c in range(columns)
    ]

    def line(cells: Sequence[str]) -> str:
        parts = [f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True)]
        return (" " * indent + "  ".join(parts)).rstrip()

    lines = [line(row) for row in rows]
    if any(header):
        lines = [line(header), line(["-" * width for width in widths]), *lines]
    return "\n".join(lines)


def paragraph(text: str, indent: int = 0, first: str = "", width: int = WIDTH) -> str:
    """Text wrapped to the width, later lines indented; `first` starts the first line."""
    return textwrap.fill(
        text,
        width=width,
        initial_indent=" " * indent + first,
        subsequent_indent=" " * (indent + len(first)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def number(value: float, digits: int = 3) -> str:
    """A number for a person: three significant digits, thousands apart, `-` when unknown.

    >>> number(12345.6), number(0.01234), number(float("nan"))
    ('12,346', '0.0123', '-')
    """
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share as a percentage, `-` when unknown; neither `100%` nor `0%` when it is only close.

    >>> percent(0.123), percent(0.99999), percent(1.0), percent(0.0001)
    ('12.3%', '99.9%', '100%', '<0.1%')
    """
    if not math.isfinite(share):
        return "-"
    if share >= 0.9995:
        return "100%" if share >= 1 else "99.9%"
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"
