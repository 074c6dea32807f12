"""The library's front: one function per question, mirroring the command line.

Names and paths are accepted wherever a spec is; all mistakes are raised together as a `SpecError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from windtunnel.answers import Explained, Plan, Served, Trained, fields_of
from windtunnel.errors import Problem, SpecError, TraceError
from windtunnel.operators.batch import Batch
from windtunnel.serving.policy import Policy
from windtunnel.specs.accept import accept
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import AcceleratorSpec, NodeSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.specs.training import TrainingEngine, TrainingJob, TrainingPlan
from windtunnel.specs.workload import WorkloadSpec
from windtunnel.training.answer import Objective
from windtunnel.workload.table import RequestTable

Workload = str | Path | WorkloadSpec | RequestTable
"""A catalogue name, a trace or YAML file, a spec, or the requests themselves."""


def plan(
    model: str | ModelSpec,
    *,
    accelerators: str | AcceleratorSpec | Sequence[str | AcceleratorSpec],
    slo: str | SloSpec,
    workload: Workload = "azure-conversation",
    max_accelerators: int = 8,
    engine: str | EngineSpec = "vllm",
    precisions: Sequence[str] = ("bf16", "fp8"),
    techniques: Sequence[str] = (),
    prices: Mapping[str, float] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Plan:
    """Which deployment carries this workload within these targets at the least cost?

    Args:
        model: catalogue name, Hugging Face id, path of a config.json or YAML, or a spec.
        accelerators: candidates by name or spec.
        slo: targets such as `"ttft_p99<2s,tpot_p99<50ms"`.
        workload: the traffic.
        max_accelerators: most accelerators of one kind.
        engine: settings that every candidate starts from.
        precisions: weight formats to try; fewer bits change what the model says, not only its speed.
        techniques: published techniques that every candidate has, such as `"sarathi:budget=512"`.
        prices: your own US dollars per accelerator and hour, by accelerator name.
        progress: called with (done, all, candidate).

    Returns:
        Every candidate with its outcome and reason; `pick` is the cheapest that holds the targets. The answer has
        `.table()`, `.as_dict()` and `.save(path)`.

    Raises:
        SpecError: a name or value that cannot be used.
        TraceError: a trace that cannot be read.
    """
    from windtunnel.search.plan import search_plans
    from windtunnel.search.question import SEQUENCE_LIMITS, Question
    from windtunnel.techniques.apply import parse
    from windtunnel.workload.transform import clip

    with accept() as take:
        if max_accelerators < 1:
            take.collect.problems.append(Problem("must be at least 1", "max_accelerators", got=str(max_accelerators)))
        found_model = take.model(model)
        devices = take.accelerators(accelerators)
        formats, own_prices = take.precisions(precisions), take.prices(prices, devices)
        found_engine = take.engine(engine)
        targets = take.slo(slo)
        with take.collect:
            parse(techniques)
    table, name, notes = _traffic(workload)
    table, clipped = clip(table, found_model.max_context_tokens)
    question = Question(
        model=found_model,
        workload=table,
        slo=targets,
        accelerators=devices,
        max_accelerators=max_accelerators,
        engine=found_engine,
        precisions=formats,
        prices=own_prices,
        sequence_limits=SEQUENCE_LIMITS,
        techniques=tuple(techniques),
    )
    said = (*notes, *clipped.notes())
    return Plan(**fields_of(search_plans(question, workload_name=name, notes=said, progress=progress)))


def simulate(
    deployment: DeploymentSpec | str | Path,
    workload: Workload = "azure-conversation",
    *,
    slo: str | SloSpec | None = None,
    prices: Mapping[str, float] | None = None,
    router: str = "least_outstanding",
    policy: Policy | None = None,
    seed: int = 0,
    record_steps: bool = False,
    sample_interval_s: float | None = None,
) -> Served:
    """What happens to this traffic on this deployment?

    Args:
        deployment: from `windtunnel.deployment(...)`, or the path of a YAML file that holds one.
        workload: the traffic.
        slo: targets, for attainment and goodput.
        prices: your own US dollars per accelerator and hour, by accelerator name.
        router: routing policy between replicas.
        policy: functions of your own (`windtunnel.Policy`) in place of the engine's scheduler, or of the router.
        seed: of everything random.
        record_steps: keep one row per step.
        sample_interval_s: keep the cluster's state at this interval, seconds.

    Returns:
        `metrics`, `ends` (the metrics at both ends of the costs' 80 % intervals), `simulation` (one row per request),
        `memory`, `usd_per_h` and `notes` (requests clipped to the context limit and the like). The answer has
        `.table()`, `.as_dict()` and `.save(path)`.

    Raises:
        SpecError: a name or value that cannot be used.
        TraceError: a trace that cannot be read.
        InfeasibleError: the deployment does not fit in memory; the message shows the sum.
        PolicyError: the policy raised, answered nan, or left a replica idle while requests wait.
    """
    from windtunnel.search.serve import serve

    with accept() as take:
        targets = take.slo(slo) if slo is not None else SloSpec()
        found = _deployment(deployment)
        own_prices = take.prices(prices, [found.accelerator])
    table, name, notes = _traffic(workload)
    done = serve(
        found,
        table,
        targets,
        workload_name=name,
        notes=notes,
        prices=own_prices,
        router=router,
        policy=policy,
        seed=seed,
        record_steps=record_steps,
        sample_interval_s=sample_interval_s,
        intervals=True,
    )
    return Served(**fields_of(done))


def explain(deployment: DeploymentSpec | str | Path, batch: Batch) -> Explained:
    """Where does the time, memory and energy of one step go, and how far is that from the hardware's limit?

    Args:
        deployment: from `windtunnel.deployment(...)`, or the path of a YAML file that holds one.
        batch: from `decode_batch(...)`, `prefill_batch(...)` or their sum.
    """
    from windtunnel.report.explain import explain_step

    return Explained(**fields_of(explain_step(_deployment(deployment), batch, "The step")))


def train(
    model: str | ModelSpec,
    *,
    accelerators: str | AcceleratorSpec | Sequence[str | AcceleratorSpec],
    gpus: int | Sequence[int],
    global_batch: str | int,
    seq_len: int,
    objective: Objective = "time",
    engine: TrainingEngine | None = None,
    plan: TrainingPlan | str | None = None,
    values: Mapping[str, Any] | None = None,
    tokens: float | None = None,
    node: str | NodeSpec | None = None,
    fabric: str = "",
    prices: Mapping[str, float] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Trained:
    """Which layout trains this model best on this cluster, and what does it take?

    Args:
        model: catalogue name, Hugging Face id, path of a config.json or YAML, or a spec.
        accelerators: by name or spec; several are compared.
        gpus: accelerators; several numbers are compared.
        global_batch: sequences per optimiser step, or tokens such as `"4M-tokens"`.
        seq_len: tokens per sequence.
        objective: what is to be small: `"time"`, `"price"` or `"energy"`.
        engine: whose abilities and habits count: megatron (default), torchtitan, deepspeed, fsdp or internevo.
        plan: price this one layout (a plan, a YAML file of its fields, or a preset's name) instead of searching.
        values: fields of the plan to try in place of the search's own choice, such as
            `{"compute_dtype": ["bf16", "fp8"], "pipeline_parallel": 4}`.
        tokens: tokens to train on, for the time, energy and price of the whole run.
        node: the server; default the accelerator's own.
        fabric: the network between nodes; default the node's own.
        prices: your own US dollars per accelerator and hour, by accelerator name.
        progress: called with (done, all, what).

    Returns:
        `best` and every listed candidate with step, memory and the reason for its rank, `rejected`, `frontier`; when
        nothing fits, `smallest` names the smallest cluster that would hold the job.

    Raises:
        SpecError: a name or value that cannot be used, or degrees and a batch that do not divide.
        InfeasibleError: the given plan offloads more than its node holds.
    """
    from windtunnel.training.asking import Asked, cluster_sizes, given_plan, jobs_of, values_of
    from windtunnel.training.question import TrainingQuestion
    from windtunnel.training.search import price_layout, search_layouts

    own = None
    with accept() as take:
        found_model, devices = take.model(model), take.accelerators(accelerators)
        own_prices = take.prices(prices, devices)
        wanted: dict[str, tuple[Any, ...]] = {}
        sizes: tuple[int, ...] = ()
        with take.collect:
            wanted = values_of(values or {}, "values")
        with take.collect:
            sizes = cluster_sizes(gpus)
        if plan is not None:
            with take.collect:
                own, preset_engine = given_plan(plan, wanted)
                engine = engine or preset_engine
    asked = Asked(
        model=found_model,
        accelerators=devices,
        gpus=sizes,
        global_batch=global_batch,
        seq_len=seq_len,
        engine=engine or "megatron",
        node=node,
        fabric=fabric,
        plan=own,
    )
    jobs, name = jobs_of(asked), model if isinstance(model, str) else model.name
    if own is not None:
        return Trained(**fields_of(price_layout(_the_one(jobs), asked=name, prices=own_prices, tokens=tokens)))
    question = TrainingQuestion(jobs, objective, wanted, own_prices, tokens, name)
    return Trained(**fields_of(search_layouts(question, progress=progress)))


def _the_one(jobs: Sequence[TrainingJob]) -> TrainingJob:
    """The job of a layout that is given, whose degrees and batch divide."""
    from windtunnel.specs.training_check import job_problems

    if len(jobs) > 1:
        raise SpecError(Problem("prices one layout on one cluster", "plan"))
    if problems := job_problems(jobs[0]):
        raise SpecError(problems)
    return jobs[0]


def schedule(case: str | Path) -> list[dict[str, Any]]:
    """What would the scheduler do, step by step?

    Args:
        case: a JSON file with the scheduler's settings, a linear step cost and requests.

    Returns:
        One record per step and a last one with the requests' times.
    """
    from windtunnel.serving.case import case_records, load_case, run_case

    found = load_case(Path(case))
    return list(case_records(found, run_case(found)))


def catalogue(kind: str) -> tuple[str, ...]:
    """Names of what is known: models, accelerators, nodes, fabrics, engines, workloads, techniques or papers."""
    from windtunnel.errors import nearest
    from windtunnel.specs.load import KINDS, names

    known = (*KINDS, "techniques", "papers")
    if kind not in known:
        raise SpecError(Problem("unknown kind", "catalogue", "", repr(kind), ", ".join(known), nearest(kind, known)))
    if kind == "techniques":
        from windtunnel.techniques.registry import TECHNIQUES

        return tuple(TECHNIQUES)
    return tuple(sorted((*names(kind), *names("papers_training")))) if kind == "papers" else names(kind)


def _deployment(given: DeploymentSpec | str | Path) -> DeploymentSpec:
    from windtunnel.specs.assemble import load_deployment
    from windtunnel.techniques.apply import with_techniques

    found = given if isinstance(given, DeploymentSpec) else load_deployment(given)
    return with_techniques(found, where="techniques" if isinstance(given, DeploymentSpec) else f"{given}: techniques")


def _traffic(workload: Workload) -> tuple[RequestTable, str, tuple[str, ...]]:
    from windtunnel.workload.load import load_workload

    if isinstance(workload, RequestTable):
        if not len(workload):
            raise TraceError(Problem("there is no request to serve", "workload"))
        return workload, "workload", ()
    found = load_workload(workload)
    return found.table, found.name, found.notes
