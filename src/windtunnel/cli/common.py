"""What every command shares: errors to exit codes, JSON to a file or standard output."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from windtunnel.errors import InfeasibleError, InputError, MissingDependencyError, Problem

P = ParamSpec("P")

DONE = 0
NO = 1
"""The answer is no: nothing meets the targets, or differences were found."""
BAD_INPUT = 2
FAULT = 70
"""A fault of our own (EX_SOFTWARE), so that a crash is never read as "the answer is no"."""
INTERRUPTED = 130


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Turn a function that returns an exit code into a command with honest exit codes.

    Bad input ends with code 2 and one line per problem, a question whose answer is no with 1,
    Ctrl-C with 130. Anything unexpected keeps its traceback.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs)
        except InputError as error:
            report_problems(error.problems)
            code = BAD_INPUT
        except MissingDependencyError as error:
            typer.echo(f"error: {error}", err=True)
            code = BAD_INPUT
        except InfeasibleError as error:
            typer.echo(f"no: {error}", err=True)
            code = NO
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            code = INTERRUPTED
        except BrokenPipeError:
            # The reader of our output has left (`| head`); keep the interpreter from complaining too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = DONE
        raise typer.Exit(code)

    run.__annotations__ = {**run.__annotations__, "return": "None"}
    return run


def report_problems(problems: tuple[Problem, ...]) -> None:
    """Every problem on standard error, one line each, the same one only once."""
    for text in dict.fromkeys(str(problem) for problem in problems):
        typer.echo(f"error: {text}", err=True)


def show(text: str, json_path: str | None) -> None:
    """Print an answer for people, unless JSON goes to standard output."""
    if json_path != "-":
        typer.echo(text)


def write_json(value: object, json_path: str | None) -> None:
    """Write a result as JSON where `--json` says."""
    if json_path is None:
        return
    from windtunnel.files import write_atomic
    from windtunnel.report.json import to_json

    if json_path == "-":
        typer.echo(to_json(value), nl=False)
    else:
        write_atomic(json_path, to_json(value))


def output_problems(**paths: str | None) -> list[Problem]:
    """Problems with the paths to be written, by flag name, before any work is done."""
    from windtunnel.files import cannot_write

    found = (cannot_write(path, f"--{flag}") for flag, path in paths.items() if path and path != "-")
    return [problem for problem in found if problem is not None]
