"""`windtunnel train`: how fast, how much memory, how long, how dear is this training job, and which layout is best?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, INTERRUPTED, NO, command, output_problems, show, write_json
from windtunnel.cli.given import Given
from windtunnel.cli.progress import progress_bar

if TYPE_CHECKING:
    from windtunnel.specs.training import TrainingJob
    from windtunnel.training.answer import TrainingAnswer
    from windtunnel.training.question import TrainingQuestion

ENGINES = ("megatron", "torchtitan", "deepspeed", "fsdp", "internevo")
OBJECTIVES = ("time", "price", "energy")
FIELDS = (
    "model", "accelerator", "node", "fabric", "gpus", "global_batch", "seq", "objective", "engine", "precision",
    "optimizer", "plan", "set", "price", "tokens",
)  # fmt: skip
_WHERE = {"global_batch_sequences": "global_batch", "seq_len": "seq"}
"""Fields of a job that have another name as a flag."""


@command
def train(
    model: options.Model = None,
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", metavar="A,B", help="Catalogue names or .yaml, compared.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="N,M", help="Accelerators; several numbers are compared.")
    ] = None,
    global_batch: Annotated[
        str | None,
        typer.Option("--global-batch", metavar="N", help="Sequences per step (1024), or tokens (4M-tokens)."),
    ] = None,
    seq: Annotated[int | None, typer.Option("--seq", metavar="N", help="Tokens per sequence.")] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", metavar="WHAT", help="What is to be small: time, price or energy.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="NAME", help=f"{', '.join(ENGINES)}. Default megatron.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", metavar="A,B", help="Arithmetic to try. Default bf16.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", metavar="NAME", help="Optimiser. Default adamw.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="FILE|NAME", help="Price this one layout: a plan in YAML, or a preset."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=A,B", help="Values of a plan's field to try; may be repeated."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="N", help="Tokens to train on, such as 15T: time, energy, price.")
    ] = None,
    node: options.Node = None,
    fabric: Annotated[
        str | None, typer.Option("--fabric", metavar="NAME", help="Network between nodes. Default the node's own.")
    ] = None,
    price: options.Price = None,
    settings: options.Settings = None,
    top: Annotated[int, typer.Option("--top", metavar="N", help="Runners-up to list.")] = 5,
    launch: Annotated[
        bool, typer.Option("--launch", help="Print how to start it with Megatron-LM, torchtitan and DeepSpeed.")
    ] = False,
    json_path: options.Json = None,
    html: options.Html = None,
    perfetto: Annotated[
        str | None,
        typer.Option("--perfetto", metavar="PATH", help="Write the pipeline's timeline for ui.perfetto.dev."),
    ] = None,
) -> int:
    """Find the best layout of a training job and say why, or price one given layout (--plan).

    The exit code is 1 when nothing fits; the answer then names the smallest cluster that would hold the job.
    """
    flags = {name: value for name, value in locals().items() if name in FIELDS} | {"set": values}
    given = Given(flags, settings)
    given.problems += output_problems(json=json_path, html=html, perfetto=perfetto)
    if top < 0:
        given.problems.append(_too_small(top))
    question, layout = _question(given)
    given.check()
    assert question is not None
    answer = _answer(question, layout)
    from windtunnel.report.train_record import train_record
    from windtunnel.report.train_text import train_text

    show(train_text(answer, top, launch=launch), json_path)
    write_json(train_record(answer), json_path)
    _write_files(answer, html, perfetto)
    if answer.interrupted:
        return INTERRUPTED
    return DONE if answer.fits else NO


def _write_files(answer: TrainingAnswer, html: str | None, perfetto: str | None) -> None:
    """The report and the timeline that were asked for."""
    from windtunnel.files import write_atomic

    if html is not None:
        from windtunnel.report.train_page import train_html

        write_atomic(html, train_html(answer))
    if perfetto is not None and answer.best is not None:
        from windtunnel.report.json import to_json
        from windtunnel.report.perfetto import pipeline_trace

        write_atomic(perfetto, to_json(pipeline_trace(answer.best.step), indent=None))


def _too_small(top: int) -> Any:
    from windtunnel.errors import Problem

    return Problem("is too small", "--top", got=str(top), allowed="0 or more")


def _question(given: Given) -> tuple[TrainingQuestion | None, bool]:
    """(everything resolved, whether one layout was given); None when something was wrong (kept in `given`)."""
    from windtunnel.training.asking import Asked, check_formats, cluster_sizes, given_plan, jobs_of, precisions
    from windtunnel.training.question import TrainingQuestion

    for name, hint in (
        ("model", "a name from `windtunnel catalogue models`"),
        ("accelerator", "a name from `windtunnel catalogue accelerators`"),
        ("gpus", "a number of accelerators, such as 1024"),
        ("global_batch", "sequences such as 1024, or tokens such as 4M-tokens"),
        ("seq", "tokens per sequence, such as 8192"),
    ):
        if not given.has(name):
            given.missing(name, hint)
    objective: Any = given.choice("objective", "time", OBJECTIVES)
    engine: Any = given.choice("engine", "megatron", ENGINES)
    tokens = _tokens(given)
    seq, own_plan, wanted = given.whole("seq", 1), None, _wanted(given)
    sizes: tuple[int, ...] = (1,)
    with given:
        sizes = cluster_sizes(given.raw("gpus", 1), given.where("gpus"))
    if given.has("plan"):
        with given:
            stated = given.raw("plan")
            named = stated if isinstance(stated, dict) else given.text("plan")
            own_plan, preset_engine = given_plan(named, wanted, given.where("plan"))
            engine = engine if given.has("engine") or preset_engine is None else preset_engine
        if len(sizes) > 1 or len(given.words("accelerator")) > 1:
            given.wrong("plan", "prices one layout on one cluster", "one --accelerator and one number of --gpus")
    formats: tuple[str, ...] = ()
    with given:
        formats = precisions(wanted.get("compute_dtype", ("bf16",)), given.where("precision"))
    if any(problem.message == "is required" for problem in given.problems):
        given.prices()
        return None, False
    asked = Asked(
        model=given.text("model"),
        accelerators=given.words("accelerator"),
        gpus=sizes,
        global_batch=given.raw("global_batch"),
        seq_len=seq,
        engine=engine,
        node=given.text("node") or None,
        fabric=given.text("fabric"),
        plan=own_plan,
    )
    before = len(given.problems)
    jobs: tuple[TrainingJob, ...] = ()
    with given:
        jobs = jobs_of(asked, given.where)
    given.problems[before:] = [_at_flag(problem, given) for problem in given.problems[before:]]
    prices = given.prices([job.accelerator.name for job in jobs])
    with given:
        check_formats(jobs, formats, given.where("precision"))
    if given.problems:
        return None, False
    tried = {} if own_plan is not None else wanted
    question = TrainingQuestion(jobs, objective, tried, prices, tokens, given.text("model"))
    return question, own_plan is not None


def _at_flag(problem: Any, given: Given) -> Any:
    """A problem that names the flag which its field came from."""
    name = _WHERE.get(problem.path, problem.path)
    return replace(problem, file=given.where(name), path="") if not problem.file and given.has(name) else problem


def _wanted(given: Given) -> dict[str, tuple[Any, ...]]:
    """Values of the plan's fields to try: --set, --precision and --optimizer."""
    from windtunnel.training.asking import plan_values

    found: dict[str, tuple[Any, ...]] = {}
    value = given.raw("set", [])
    settings = [f"{k}={_joined(v)}" for k, v in value.items()] if isinstance(value, dict) else list(value)
    with given:
        found = plan_values(settings, given.where("set"))
    for flag, field in (("precision", "compute_dtype"), ("optimizer", "optimizer")):
        if given.has(flag):
            if field in found:
                given.wrong(flag, f"is given by --set {field} as well", "one of the two")
            with given:
                found |= plan_values([f"{field}={','.join(given.words(flag))}"], given.where(flag))
    return found


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _tokens(given: Given) -> float | None:
    from windtunnel.units import parse_count

    if not given.has("tokens"):
        return None
    try:
        found = parse_count(given.raw("tokens"))
    except ValueError:
        found = -1.0
    if found <= 0:
        given.wrong("tokens", "must be a number of tokens above 0", "such as 15T")
        return None
    return found


def _answer(question: TrainingQuestion, layout: bool) -> TrainingAnswer:
    """The search with a progress bar, or the one layout that was given."""
    from windtunnel.errors import SpecError
    from windtunnel.specs.training_check import job_problems
    from windtunnel.training.search import price_layout, search_layouts

    if layout:
        job = question.clusters[0]
        problems = job_problems(job)
        if problems:
            raise SpecError(problems)
        return price_layout(job, asked=question.asked, prices=question.prices, tokens=question.tokens)
    with progress_bar() as progress:
        return search_layouts(question, progress=progress)
