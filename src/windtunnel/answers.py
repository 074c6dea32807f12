"""What the library's functions answer: results that can be read, written and kept as records."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from windtunnel.errors import Problem, SpecError
from windtunnel.report.explain import Explanation
from windtunnel.search.result import PlanResult
from windtunnel.search.serve import Run
from windtunnel.training.answer import TrainingAnswer


class Answer:
    """What every answer can do: be read, be a record, be written."""

    __slots__ = ()

    def table(self) -> str:
        """The answer as text for a terminal, as the command line prints it."""
        return show(self)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON can hold it, as the command line's `--json` writes it."""
        return record_of(self)  # type: ignore[arg-type]

    def save(self, path: str | Path) -> Path:
        """Write the answer, whole or not at all, as `.json` or, with charts, `.html`."""
        return save(self, path)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Plan(PlanResult, Answer):
    """The answer of `plan`; see `PlanResult` for its fields."""


@dataclass(frozen=True, slots=True)
class Served(Run, Answer):
    """The answer of `simulate`; see `Run` for its fields."""


@dataclass(frozen=True, slots=True)
class Explained(Explanation, Answer):
    """The answer of `explain`; see `Explanation` for its fields. It is written as `.json` only."""


@dataclass(frozen=True, slots=True)
class Trained(TrainingAnswer, Answer):
    """The answer of `train`; see `TrainingAnswer` for its fields."""


def fields_of(result: Any) -> dict[str, Any]:
    """The fields of a result, to make an answer of it."""
    return {field.name: getattr(result, field.name) for field in fields(result)}


Result = PlanResult | Run | Explanation | TrainingAnswer
"""What the library's functions answer."""


def show(result: Result) -> str:
    """A result as text for a terminal, as the command line prints it."""
    from windtunnel.report.explain import explain_text
    from windtunnel.report.run_text import run_text
    from windtunnel.report.terminal import plan_text
    from windtunnel.report.train_text import train_text

    if isinstance(result, TrainingAnswer):
        return train_text(result)
    if isinstance(result, PlanResult):
        return plan_text(result)
    return run_text(result) if isinstance(result, Run) else explain_text(result)


def save(result: Result, path: str | Path) -> Path:
    """Write a result, whole or not at all, as `.json`; all but `explain` also as `.html` with charts.

    Raises:
        SpecError: the suffix is not one that this result can be written as.
    """
    from windtunnel.files import write_atomic
    from windtunnel.report.json import to_json
    from windtunnel.report.plan_page import plan_html
    from windtunnel.report.run_page import run_html
    from windtunnel.report.train_page import train_html

    suffix = Path(path).suffix
    allowed = ".json" if isinstance(result, Explanation) else ".json or .html"
    if suffix not in allowed.split(" or "):
        raise SpecError(Problem("cannot write this kind of file", path=str(path), got=repr(suffix), allowed=allowed))
    if suffix == ".html" and isinstance(result, PlanResult):
        return write_atomic(path, plan_html(result))
    if suffix == ".html" and isinstance(result, Run):
        return write_atomic(path, run_html(result))
    if suffix == ".html" and isinstance(result, TrainingAnswer):
        return write_atomic(path, train_html(result))
    return write_atomic(path, to_json(record_of(result)))


def record_of(result: Result) -> dict[str, Any]:
    """A result as JSON can hold it."""
    from windtunnel.report.explain import explain_record
    from windtunnel.report.json import plain
    from windtunnel.report.records import plan_record
    from windtunnel.report.run_record import run_record
    from windtunnel.report.train_record import train_record

    if isinstance(result, TrainingAnswer):
        record = train_record(result)
    elif isinstance(result, PlanResult):
        record = plan_record(result)
    else:
        record = run_record(result) if isinstance(result, Run) else explain_record(result)
    found: dict[str, Any] = plain(record)
    return found
