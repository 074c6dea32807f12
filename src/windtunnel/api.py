"""The library's front: one function per question, mirroring the command line.

Names and paths are accepted wherever a spec is; all mistakes are raised together as a `SpecError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from windtunnel.errors import Problem, SpecError, TraceError
from windtunnel.operators.batch import Batch
from windtunnel.report.explain import Explanation
from windtunnel.search.result import PlanResult
from windtunnel.search.serve import Run
from windtunnel.serving.policy import Policy
from windtunnel.specs.accept import accept
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.specs.workload import WorkloadSpec
from windtunnel.workload.table import RequestTable

Workload = str | Path | WorkloadSpec | RequestTable
"""A catalogue name, a trace or YAML file, a spec, or the requests themselves."""


class _Answer:
    """What every answer can do: be read, be a record, be written."""

    __slots__ = ()

    def table(self) -> str:
        """The answer as text for a terminal, as the command line prints it."""
        return show(self)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON can hold it, as the command line's `--json` writes it."""
        return _record(self)  # type: ignore[arg-type]

    def save(self, path: str | Path) -> Path:
        """Write the answer, whole or not at all, as `.json` or, with charts, `.html`."""
        return save(self, path)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Plan(PlanResult, _Answer):
    """The answer of `plan`; see `PlanResult` for its fields."""


@dataclass(frozen=True, slots=True)
class Served(Run, _Answer):
    """The answer of `simulate`; see `Run` for its fields."""


@dataclass(frozen=True, slots=True)
class Explained(Explanation, _Answer):
    """The answer of `explain`; see `Explanation` for its fields. It is written as `.json` only."""


def _fields(result: Any) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in fields(result)}


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
    return Plan(**_fields(search_plans(question, workload_name=name, notes=said, progress=progress)))


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
    return Served(**_fields(done))


def explain(deployment: DeploymentSpec | str | Path, batch: Batch) -> Explained:
    """Where does the time, memory and energy of one step go, and how far is that from the hardware's limit?

    Args:
        deployment: from `windtunnel.deployment(...)`, or the path of a YAML file that holds one.
        batch: from `decode_batch(...)`, `prefill_batch(...)` or their sum.
    """
    from windtunnel.report.explain import explain_step

    return Explained(**_fields(explain_step(_deployment(deployment), batch, "The step")))


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


def show(result: PlanResult | Run | Explanation) -> str:
    """A result as text for a terminal, as the command line prints it."""
    from windtunnel.report.explain import explain_text
    from windtunnel.report.run_text import run_text
    from windtunnel.report.terminal import plan_text

    if isinstance(result, PlanResult):
        return plan_text(result)
    return run_text(result) if isinstance(result, Run) else explain_text(result)


def save(result: PlanResult | Run | Explanation, path: str | Path) -> Path:
    """Write a result, whole or not at all, as `.json`; a plan or a run also as `.html` with charts.

    Raises:
        SpecError: the suffix is not one that this result can be written as.
    """
    from windtunnel.files import write_atomic
    from windtunnel.report.json import to_json
    from windtunnel.report.plan_page import plan_html
    from windtunnel.report.run_page import run_html

    suffix = Path(path).suffix
    allowed = ".json" if isinstance(result, Explanation) else ".json or .html"
    if suffix not in allowed.split(" or "):
        raise SpecError(Problem("cannot write this kind of file", path=str(path), got=repr(suffix), allowed=allowed))
    if suffix == ".html" and isinstance(result, PlanResult):
        return write_atomic(path, plan_html(result))
    if suffix == ".html" and isinstance(result, Run):
        return write_atomic(path, run_html(result))
    return write_atomic(path, to_json(_record(result)))


def _record(result: PlanResult | Run | Explanation) -> dict[str, Any]:
    from windtunnel.report.explain import explain_record
    from windtunnel.report.json import plain
    from windtunnel.report.records import plan_record
    from windtunnel.report.run_record import run_record

    if isinstance(result, PlanResult):
        record = plan_record(result)
    else:
        record = run_record(result) if isinstance(result, Run) else explain_record(result)
    found: dict[str, Any] = plain(record)
    return found


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
