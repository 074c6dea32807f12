"""`windtunnel validate`: how far predictions are from measured results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, command, output_problems, show, write_json

if TYPE_CHECKING:
    from windtunnel.evidence.validate import Progress


@command
def validate(
    path: Annotated[str, typer.Argument(metavar="FILE.csv|DIR", help="A table of results, or the folder of a run.")],
    tier: Annotated[str | None, typer.Option("--tier", metavar="A|B|C", help="Rows of this tier only.")] = None,
    split: Annotated[str | None, typer.Option("--split", metavar="NAME", help="Rows of this split only.")] = None,
    kernels: Annotated[
        str | None, typer.Option("--kernels", metavar="DIR", help="Measured kernels of the run's device.")
    ] = None,
    json_path: options.Json = None,
    html: options.Html = None,
) -> int:
    """Set predictions beside measured results, row by row.

    Tables of serving, training and InferenceX results are told apart by their columns.
    """
    from windtunnel.errors import InputError, Problem

    problems = output_problems(json=json_path, html=html)
    source = Path(path)
    if not source.exists():
        problems.append(Problem("no such file or folder", path))
    if source.is_file() and kernels is not None:
        problems.append(Problem("goes with the folder of a run, not with a table", "--kernels", got=kernels))
    if source.is_dir() and (tier or split):
        problems.append(Problem("go with a table, not with the folder of a run", "--tier, --split"))
    if problems:
        raise InputError(problems)
    if source.is_dir():
        return _run_folder(source, kernels, json_path, html)
    return _table(source, tier or "", split or "", json_path, html)


def _table(source: Path, tier: str, split: str, json_path: str | None, html: str | None) -> int:
    from windtunnel.evidence.validate import validate as compare
    from windtunnel.report.validate_page import validation_html
    from windtunnel.report.validate_text import validation_text

    done = compare(source, tier=tier, split=split, progress=_progress())
    answer = done.as_dict()
    show(validation_text(answer, done.table.path), json_path)
    write_json(answer, json_path)
    if html is not None:
        from windtunnel.files import write_atomic

        write_atomic(html, validation_html(done))
    return DONE


def _run_folder(source: Path, kernels: str | None, json_path: str | None, html: str | None) -> int:
    from windtunnel.errors import InputError, Problem
    from windtunnel.evidence.runs import validate_run
    from windtunnel.report.validate_run_text import run_report_text

    if html is not None:
        raise InputError(Problem("goes with a table, not with the folder of a run", "--html", got=html))
    answer = validate_run(source, kernels).as_dict()
    show(run_report_text(answer, str(source)), json_path)
    write_json(answer, json_path)
    return DONE


def _progress() -> Progress | None:
    """A line that tells how far the work is, where somebody watches."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\r{done:,} of {total:,} set-ups predicted{end}")
        sys.stderr.flush()

    return tell
