"""The `windtunnel` command. Each command stands in its own file and imports the library only when it runs."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from windtunnel.cli import (
    bench,
    calibrate,
    catalogue,
    common,
    compare,
    explain,
    plan,
    profile,
    reproduce,
    schedule,
    simulate,
    train,
    validate,
)

app = typer.Typer(
    name="windtunnel",
    help="A wind tunnel for LLM systems: predict, explain and optimise serving before paying for the hardware.",
    epilog="Exit codes: 0 done, 1 the answer is no, 2 bad input.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"windtunnel {version('windtunnel')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("plan", short_help="Which deployment serves this traffic at least cost?")(plan.plan)
app.command("simulate", short_help="What happens to this traffic on this deployment?")(simulate.simulate)
app.command("explain", short_help="Where do a step's time, memory and energy go?")(explain.explain)
app.command("train", short_help="Which layout trains this model fastest, and what does it take?")(train.train)
app.command("schedule", short_help="What would the scheduler do, step by step?")(schedule.schedule)
app.command("catalogue", short_help="What is known, and where does it come from?")(catalogue.catalogue)
app.command("bench", short_help="Load a live engine and time every token.")(bench.bench)
app.command("validate", short_help="How far are predictions from these measured results?")(validate.validate)
app.command("reproduce", short_help="Does the model reproduce this paper?")(reproduce.reproduce)
app.command("profile", short_help="Measure the kernels of this device.")(profile.profile)
app.command("calibrate", short_help="Fit the cost model to measured kernels.")(calibrate.calibrate)
app.command("compare", short_help="How far is a prediction from what was measured, and why?")(compare.compare)
app.command("fit", short_help="Correct an engine's overheads from a measurement.")(compare.fit)


def main() -> None:
    """Entry point of the console script. A fault of our own keeps its traceback and its own exit code."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(common.INTERRUPTED)
    except Exception:
        traceback.print_exc()
        sys.exit(common.FAULT)
