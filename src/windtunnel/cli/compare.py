"""`windtunnel compare` and `windtunnel fit`: a prediction beside a measurement, and what corrects it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, NO, command, output_problems, show, write_json
from windtunnel.cli.progress import progress_bar

if TYPE_CHECKING:
    from windtunnel.live.compare import Comparison
    from windtunnel.live.measurement import Measurement
    from windtunnel.live.repeats import Repeated
    from windtunnel.specs.deployment import DeploymentSpec

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
    measurement: Runs,
    json_path: options.Json = None,
    html: options.Html = None,
) -> int:
    """Lay a prediction beside a measurement of the same requests and say where the gap comes from.

    Given a deployment, the measured requests are replayed on it with the lengths that they had in fact. Several runs
    of one load tell noise from error. Results of vllm bench serve, GuideLLM, AIPerf, GenAI-Perf and inference-perf
    are read too.
    """
    _check_outputs(json=json_path, html=html)
    from windtunnel.live.repeats import middle_run, repeated
    from windtunnel.report.compare_text import compare_text, repeats_text

    comparisons = _comparisons(prediction, measurement)
    place = middle_run(comparisons)
    found, source = comparisons[place], measurement[place]
    several = repeated(comparisons) if len(comparisons) > 1 else ()
    show(repeats_text(several, found, source) if several else compare_text(found), json_path)
    write_json(_plain(several, comparisons, measurement) if several else found.as_dict(), json_path)
    if html is not None:
        from windtunnel.files import write_atomic
        from windtunnel.report.compare_page import compare_html

        write_atomic(html, compare_html(found, source, several))
    return DONE


def _comparisons(prediction: str, measurement: list[str]) -> list[Comparison]:
    """Each run beside its prediction."""
    from windtunnel.errors import Problem, SpecError
    from windtunnel.live.compare import compare as lay_beside
    from windtunnel.live.compare import compare_deployment
    from windtunnel.live.replay import of_table

    runs = read_runs(measurement)
    other = [
        Problem("is no run of the same load", path, got=f"{len(one):,} requests", allowed=f"{len(runs[0]):,}")
        for path, one in zip(measurement, runs, strict=True)
        if len(one) != len(runs[0])
    ]
    if other:
        raise SpecError(other)
    if not prediction.endswith((".yaml", ".yml")):
        return [lay_beside(one, of_table(prediction, one)) for one in runs]
    deployment = _deployment(prediction)
    return [compare_deployment(one, deployment) for one in runs]


def _plain(several: tuple[Repeated, ...], comparisons: list[Comparison], measurement: list[str]) -> dict[str, object]:
    """Several runs for JSON: each figure over all of them, and every run as it would be alone."""
    runs = {source: one.as_dict() for source, one in zip(measurement, comparisons, strict=True)}
    return {"metrics": {one.name: one.as_dict() for one in several}, "runs": runs}


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

    measured = read_runs(measurement)
    with progress_bar() as progress:
        found = fit_overheads(_deployment(deployment), *measured, kernels=kernels, progress=progress)
    write_atomic(out, engine_yaml(found, *measured))
    show(fit_text(found, out), json_path)
    write_json(fit_record(found), json_path)
    return DONE if found.improved else NO


def read_runs(paths: list[str]) -> list[Measurement]:
    """Several measurements.

    Raises:
        SpecError: one is named twice, which would pass for two runs that agree.
    """
    from windtunnel.errors import Problem, SpecError

    whole = [Path(path).resolve() for path in paths]
    twice = [path for place, path in enumerate(paths) if whole[place] in whole[:place]]
    if twice:
        raise SpecError([Problem("is named twice", path, allowed="every run once") for path in twice])
    return [read_measured(path) for path in paths]


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
