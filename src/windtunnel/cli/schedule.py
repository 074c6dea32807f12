"""`windtunnel schedule`: what the scheduler does, step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, NO, command, output_problems


@command
def schedule(
    case: Annotated[str, typer.Argument(metavar="CASE.json", help="Scheduler settings, step cost and requests.")],
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="EXPECTED", help="Compare with these JSON lines (.gz or not).")
    ] = None,
    json_path: options.Json = None,
) -> int:
    """Print every step that the scheduler takes, one JSON object per line.

    Each line says when the step starts and ends, who is scheduled for how many tokens, who is preempted or finishes,
    and what is left; the last line holds the requests. With --diff nothing is printed but the first difference, and
    the exit code is 1 when there is one.
    """
    from windtunnel.errors import CaseError
    from windtunnel.files import write_atomic
    from windtunnel.serving.case import case_lines, load_case, run_case
    from windtunnel.serving.case_diff import first_difference, read_lines

    if problems := output_problems(json=json_path):
        raise CaseError(problems)
    loaded = load_case(Path(case))
    expected = None if diff is None else read_lines(Path(diff))
    lines = list(case_lines(loaded, run_case(loaded)))
    if json_path not in (None, "-"):
        write_atomic(json_path, "\n".join([*lines, ""]))
    elif expected is None:
        typer.echo("\n".join(lines))
    if expected is None:
        return DONE
    difference = first_difference([json.loads(line) for line in lines], expected)
    typer.echo(str(difference or "") or f"{len(lines)} lines identical", err=json_path == "-")
    return NO if difference else DONE
