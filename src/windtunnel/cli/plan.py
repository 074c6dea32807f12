"""`windtunnel plan`: which hardware and plan serve this traffic within these targets at least cost?"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, INTERRUPTED, NO, command, output_problems, show, write_json
from windtunnel.cli.given import Given
from windtunnel.cli.progress import progress_bar
from windtunnel.cli.traffic import TRAFFIC, read_traffic
from windtunnel.errors import Problem, nearest

if TYPE_CHECKING:
    from windtunnel.search.question import Question
    from windtunnel.search.result import PlanResult
    from windtunnel.workload.load import LoadedWorkload

MODEL = "meta-llama/Llama-3.1-70B-Instruct"
ACCELERATORS = "a100-80g-sxm,h100-sxm,h200-sxm"
MAX_GPUS = 8
SLO = "ttft_p99<2s,tpot_p99<50ms"
FIELDS = (
    "model", "accelerator", "max_gpus", "slo", "engine", "technique", "precisions", "token_budgets", "max_num_seqs",
    "gpu_memory_utilization", "price", "router", *TRAFFIC,
)  # fmt: skip


@command
def plan(
    model: options.Model = None,
    trace: options.Trace = None,
    workload: options.Workload = None,
    rate: options.Rate = None,
    rate_scale: options.RateScale = None,
    limit: options.Limit = None,
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", metavar="A,B", help=f"Candidates. Default {ACCELERATORS}.")
    ] = None,
    max_gpus: Annotated[
        int | None, typer.Option("--max-gpus", metavar="N", help=f"Most accelerators of one kind. Default {MAX_GPUS}.")
    ] = None,
    slo: options.Slo = None,
    engine: options.Engine = None,
    technique: options.Technique = None,
    precisions: Annotated[
        str | None, typer.Option("--precisions", metavar="A,B", help="Weight formats to try. Default bf16,fp8.")
    ] = None,
    token_budgets: Annotated[
        str | None, typer.Option("--token-budgets", metavar="N,M", help="Step token budgets to try. Default 2048,8192.")
    ] = None,
    max_num_seqs: options.MaxNumSeqs = None,
    gpu_memory_utilization: options.MemoryUtilization = None,
    price: options.Price = None,
    router: options.Router = None,
    seed: options.Seed = None,
    settings: options.Settings = None,
    top: Annotated[int, typer.Option("--top", metavar="N", help="Runners-up to list.")] = 5,
    json_path: options.Json = None,
    html: options.Html = None,
) -> int:
    """Find the deployment that serves this traffic within these targets at least cost, and say why.

    Without flags it answers for a packaged hour of chat traffic. The exit code is 1 when nothing meets the targets.
    """
    given = Given({name: value for name, value in locals().items() if name in FIELDS}, settings)
    given.problems += output_problems(json=json_path, html=html)
    if top < 0:
        given.problems.append(Problem("is too small", "--top", got=str(top), allowed="0 or more"))
    loaded = read_traffic(given, given.whole("seed", 0, 0))
    question = _question(given, loaded)
    given.check()
    assert question is not None
    assert loaded is not None
    result = _search(question, loaded, given.text("model", MODEL))
    from windtunnel.report.records import plan_record
    from windtunnel.report.terminal import plan_text

    show(plan_text(result, top), json_path)
    write_json(plan_record(result), json_path)
    if html is not None:
        from windtunnel.files import write_atomic
        from windtunnel.report.plan_page import plan_html

        write_atomic(html, plan_html(result))
    if result.interrupted:
        return INTERRUPTED
    return DONE if result.pick is not None else NO


def _question(given: Given, loaded: LoadedWorkload | None) -> Question | None:
    """Everything resolved; None when something was wrong (kept in `given`)."""
    from windtunnel.search.question import SEQUENCE_LIMITS, Question
    from windtunnel.specs.load import load
    from windtunnel.techniques.apply import parse
    from windtunnel.workload.transform import clip

    model = engine = None
    techniques = given.words("technique")
    with given:
        parse(techniques, given.where("technique"))
    with given:
        model = load("models", given.text("model", MODEL), given.where("model"))
    accelerators = []
    for name in given.words("accelerator", ACCELERATORS):
        with given:
            accelerators.append(load("accelerators", name, given.where("accelerator")))
    with given:
        engine = load("engines", given.text("engine", "vllm"), given.where("engine"))
    slo, prices = given.slo(SLO), given.prices()
    most, seed = given.whole("max_gpus", MAX_GPUS), given.whole("seed", 0, 0)
    precisions, budgets = _precisions(given), _budgets(given)
    router = given.choice("router", "least_outstanding", options.ROUTERS)
    settings = {"max_num_seqs": given.whole("max_num_seqs", 256)} if given.has("max_num_seqs") else {}
    share = given.positive("gpu_memory_utilization", 1.0)
    if given.problems or loaded is None:
        return None
    assert model is not None
    assert engine is not None
    engine = engine.model_copy(update={**settings, **({"memory_utilization": share} if share else {})})
    table, _ = clip(loaded.table, model.max_context_tokens)
    slots = () if given.has("max_num_seqs") else SEQUENCE_LIMITS
    return Question(
        model,
        table,
        slo,
        tuple(accelerators),
        most,
        engine,
        precisions,
        budgets,
        prices,
        router,
        seed,
        slots,
        techniques,
    )


def _precisions(given: Given) -> tuple[str, ...]:
    """Weight formats to try."""
    from typing import get_args

    from windtunnel.specs.fields import Dtype

    known = get_args(Dtype)
    found = given.words("precisions", "bf16,fp8")
    for name in found:
        if name not in known:
            given.wrong("precisions", f"unknown number format {name!r}", ", ".join(known), nearest(name, known))
    return found


def _budgets(given: Given) -> tuple[int, ...]:
    """Token budgets of a step to try."""
    found = given.words("token_budgets", "2048,8192")
    if not all(word.isdecimal() and int(word) > 0 for word in found):
        given.wrong("token_budgets", "must be whole numbers above 0", "such as 2048,8192")
        return ()
    return tuple(int(word) for word in found)


def _search(question: Question, loaded: LoadedWorkload, asked: str) -> PlanResult:
    """Run the search with a progress bar; the answer carries the model's name as it was asked for."""
    from windtunnel.search.plan import search_plans
    from windtunnel.workload.transform import clip

    _, clipped = clip(loaded.table, question.model.max_context_tokens)
    notes = (*loaded.notes, *clipped.notes(), *_provenance(question))
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with progress_bar() as progress:
        result = search_plans(question, workload_name=loaded.name, notes=notes, progress=progress, workers=workers)
    return replace(result, model=asked)


def _provenance(question: Question) -> list[str]:
    """What the answer rests on: prices, and hardware that nobody has measured."""
    from windtunnel.cost.device import device_of
    from windtunnel.specs.prices import price_usd_per_h

    notes = []
    prices = [price_usd_per_h(a.name, overrides=question.prices) for a in question.accelerators]
    said = [f"{p.accelerator} ${p.usd_per_h:.2f} ({' '.join(filter(None, (p.provider, p.date)))})" for p in prices]
    notes.append(f"prices per accelerator and hour: {', '.join(said)}; --price NAME=USD changes them")
    for device in map(device_of, question.accelerators):
        if device.provenance == "datasheet":
            notes.append(
                f"{device.accelerator.name} has not been measured: its kernels are priced with the constants of "
                f"{device.inherited_from}"
            )
    return notes
