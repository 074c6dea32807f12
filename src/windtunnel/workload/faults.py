"""What is wrong with a trace file: collected up to a limit, then raised together."""

from __future__ import annotations

from typing import NoReturn

from windtunnel.errors import Problem, TraceError, shorten

MOST_PROBLEMS = 20
"""A file with more mistakes than this is refused without reading on."""

LONGEST_TOKENS = 10_000_000
"""No engine serves a request longer than this; a larger number is a mistake in the file."""


class Faults:
    """The problems found so far in one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def add(
        self,
        message: str,
        line: int = 0,
        column: str = "",
        got: object = None,
        allowed: str = "",
        nearest: str = "",
    ) -> None:
        """Note a problem; raises at once when there are too many to be worth reading on.

        Args:
            message: what is wrong.
            line: line of the file counted from 1, or 0 when it concerns the whole file.
            column: column or key of the file.
            got: the offending value.
            allowed: what would have been accepted.
            nearest: the name that was probably meant.
        """
        where = ", ".join(
            part for part in (f"line {line}" if line else "", f"column {column}" if column else "") if part
        )
        text = "" if got is None else shorten(got)
        self.problems.append(Problem(message, self.file, where, text, allowed, nearest))
        if len(self.problems) >= MOST_PROBLEMS:
            self.problems.append(Problem(f"stopped after {MOST_PROBLEMS} problems; there may be more", self.file))
            raise TraceError(self.problems)

    def fail(self, message: str, line: int = 0, column: str = "", got: object = None, allowed: str = "") -> NoReturn:
        """Note a problem that makes the rest unreadable, and raise everything found."""
        self.add(message, line, column, got, allowed)
        raise TraceError(self.problems)

    def check(self) -> None:
        """Raise what was found, if anything was."""
        if self.problems:
            raise TraceError(self.problems)
