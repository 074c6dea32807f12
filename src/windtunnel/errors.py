"""The error tree: what can go wrong, and how it is said.

    WindtunnelError
    |- InputError              bad input; the command line exits with code 2
    |  |- SpecError            a model, hardware, plan, engine, workload or target that is wrong
    |  |- TraceError           a workload file that cannot be read
    |  |- CaseError            a scheduler case that cannot be run
    |  `- PolicyError          a policy that does not keep to its interface, or raised
    |- InfeasibleError         the question is fine, the answer is no; exit code 1
    `- MissingDependencyError  an optional extra is not installed; exit code 2

Mistakes are collected as `Problem`s and raised together, so that a user mends a file once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in what the user gave.

    Attributes:
        message: what is wrong, in one sentence without a full stop.
        file: the file it stands in, or the flag it came from (`--slo`); empty when unknown.
        path: the field within it (`plan.tensor_parallel`, `line 3, column GeneratedTokens`).
        got: the offending value as text, shortened; empty when a value is missing.
        allowed: what would have been accepted.
        nearest: the nearest valid name, when the value is a misspelt name.
    """

    message: str
    file: str = ""
    path: str = ""
    got: str = ""
    allowed: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.path) if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.got:
            text += f", got {self.got}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text


class WindtunnelError(Exception):
    """Anything that Windtunnel raises on purpose."""


class InputError(WindtunnelError):
    """Input that cannot be used. Carries every `Problem` found, not only the first."""

    def __init__(self, problems: Iterable[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SpecError(InputError):
    """A specification (model, hardware, plan, engine, workload, target) is wrong."""


class TraceError(InputError):
    """A workload file cannot be read as a trace."""


class CaseError(InputError):
    """A scheduler case file cannot be run."""


class PolicyError(InputError):
    """A policy does not keep to its interface, or raised an exception of its own."""


class InfeasibleError(WindtunnelError):
    """The question is well posed and the answer is no (nothing fits, nothing meets the target)."""


class MissingDependencyError(WindtunnelError):
    """An optional dependency is missing; the message says how to install it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to a misspelt one, or an empty string when none is close."""
    by_folded: dict[str, str] = {}
    for candidate in known:
        by_folded.setdefault(candidate.casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[found[0]] if found else ""


def shorten(value: object, limit: int = 60) -> str:
    """The value as a short piece of text for a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
