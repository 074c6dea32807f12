"""`windtunnel compare` and `windtunnel fit`: a prediction beside a measurement, and what corrects it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, NO, command, output_problems, show, write_json
from windtunnel.cli.progress import progress_bar

if TYPE_CHECKING:
    from windtunnel.live.measurement import Measurement
    from windtunnel.specs.deployment import DeploymentSpec

Measured = Annotated[
    str,
    typer.Argument(metavar="MEASUREMENT", help="Folder of `windtunnel bench`, or a result file of another tool."),
]

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="MEASUREMENT...",
        help="Folders of `windtunnel bench`, or result files of other tools: runs of one load.",
    ),
]


@command
def compare(
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTION", help="A deployment in YAML, or the table that `simulate --requests` wrote."
        ),
    ],
    measurement: Measured,
    json_path: options.Json = None,
    html: options.Html = None,
) -> int:
    """Lay a prediction beside a measurement of the same requests and say where the gap comes from.

    Given a deployment, the measured requests are replayed on it with the lengths that they had in fact. Results
    of vllm bench serve, GuideLLM, AIPerf, GenAI-Perf and inference-perf are read too.
    """
    _check_outputs(json=json_path, html=html)
    from windtunnel.live.compare import compare as lay_beside
    from windtunnel.live.compare import compare_deployment
    from windtunnel.live.replay import of_table
    from windtunnel.report.compare_text import compare_text

    measured = read_measured(measurement)
    if prediction.endswith((".yaml", ".yml")):
        found = compare_deployment(measured, _deployment(prediction))
    else:
        found = lay_beside(measured, of_table(prediction, measured))
    show(compare_text(found), json_path)
    write_json(found.as_dict(), json_path)
    if html is not None:
        from windtunnel.files import write_atomic
        from windtunnel.report.compare_page import compare_html

        write_atomic(html, compare_html(found, measurement))
    return DONE


@command
def fit(
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="What was measured, in YAML.")],
    measurement: Runs,
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Where the corrected engine goes (.yaml).")],
    kernels: Annotated[bool, typer.Option("--kernels", help="Fit one factor on the time of all kernels too.")] = False,
    json_path: options.Json = None,
) -> int:
    """Correct an engine's overheads from measurements; the second half of each run is held out.

    Several runs of one load, with other loads between them, tell the usual speed of a machine whose speed wanders.
    The exit code is 1 when the held-out half is not predicted better than before.
    """
    _check_outputs(json=json_path, out=out)
    from windtunnel.files import write_atomic
    from windtunnel.live.fit import fit as fit_overheads
    from windtunnel.live.fitted import engine_yaml, fit_record
    from windtunnel.report.compare_text import fit_text

    measured = [read_measured(one) for one in measurement]
    with progress_bar() as progress:
        found = fit_overheads(_deployment(deployment), *measured, kernels=kernels, progress=progress)
    write_atomic(out, engine_yaml(found, *measured))
    show(fit_text(found, out), json_path)
    write_json(fit_record(found), json_path)
    return DONE if found.improved else NO


def read_measured(path: str) -> Measurement:
    """A measurement from a folder of ours or a file of another tool."""
    from windtunnel.errors import Problem, TraceError
    from windtunnel.live.foreign import read_measurement
    from windtunnel.live.measurement import load

    if Path(path).is_dir():
        return load(path)
    if not Path(path).is_file():
        raise TraceError(Problem("does not exist", path))
    return read_measurement(path)


def _deployment(path: str) -> DeploymentSpec:
    from windtunnel.specs.assemble import load_deployment
    from windtunnel.techniques.apply import with_techniques

    return with_techniques(load_deployment(Path(path)), where=f"{path}: techniques")


def _check_outputs(**paths: str | None) -> None:
    from windtunnel.errors import SpecError

    problems = output_problems(**paths)
    if problems:
        raise SpecError(problems)
