"""A step taken apart: every operator's time beside the hardware's limit, the memory account, the energy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from windtunnel.cost.device import device_of
from windtunnel.cost.draft_steps import DraftPass, draft_passes, verifying
from windtunnel.cost.memory import MemoryNeed, memory_need
from windtunnel.cost.steps import StepCost, price_step
from windtunnel.cost.uncertainty import reach
from windtunnel.operators.batch import Batch
from windtunnel.report import charts
from windtunnel.report.json import plain
from windtunnel.report.records import deployment_record
from windtunnel.report.text import number, paragraph, percent, table
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.units import format_bytes, format_seconds, format_si

_PROVENANCE = {
    "measured": "from kernels measured on this device",
    "calibrated": "calibrated on kernels measured on this device",
    "datasheet": "from its datasheet and its family's constants (nobody has measured it)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One operator of the step, all its executions together, on one rank.

    Attributes:
        name: what it is, or `engine` for the host's own time.
        count: executions in a forward pass.
        seconds: predicted time; limit_s: speed of light.
        bound_by: compute, memory, latency, link or host.
        source: measured, calibrated, datasheet; `engine` for host time.
        flops, bytes: work and traffic of the rank.
    """

    name: str
    count: float
    seconds: float
    limit_s: float
    bound_by: str
    source: str
    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """One forward pass of one replica, from host to sampling.

    Attributes:
        what: the batch in words, for the heading.
        rows: operators in order of execution, then waits and the drafter's passes; their seconds sum to `seconds`,
            except that drafting beside the target hides the shorter of both.
        memory: memory of the worst rank.
        ends_s: time of the pass with all costs at the low and at the high end of their 80 % intervals.
        drafting: the drafter's passes, with speculative decoding.
    """

    deployment: DeploymentSpec
    batch: Batch
    what: str
    step: StepCost
    rows: tuple[Row, ...]
    memory: MemoryNeed
    ends_s: tuple[float, float] = (float("nan"), float("nan"))
    drafting: tuple[DraftPass, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of the pass, drafting included."""
        return _with_drafting(self.deployment, self.step, self.drafting)

    @property
    def limit_s(self) -> float:
        """Speed of light of the pass, drafting included."""
        drafting = sum(one.count * one.limit_s for one in self.drafting)
        spec = self.deployment.engine.speculative
        beside = spec is not None and spec.method == "parallel"
        return max(self.step.limit_s, drafting) if beside else self.step.limit_s + drafting

    @property
    def tokens_out(self) -> float:
        """Tokens that requests gain in the pass: the accepted drafts on average, and one each."""
        spec = self.deployment.engine.speculative
        drafters = self.batch.sampled - self.batch.draft_tokens
        if spec is None or not self.batch.draft_tokens:
            return float(self.batch.sampled)
        drafts = spec.depth if spec.tree else self.batch.queries - 1
        gained = 1.0 + sum(sum(one[:drafts]) for one in spec.classes) / len(spec.classes)
        return self.batch.decode_requests * gained + (drafters - self.batch.decode_requests)

    @property
    def joules(self) -> float:
        """Dynamic and idle energy of the pass."""
        dynamic = self.step.joules + sum(one.count * one.joules for one in self.drafting)
        own_w = self.deployment.drafter_accelerators * self.deployment.accelerator.idle_w
        return dynamic + (self.step.static_w + own_w) * self.seconds

    @property
    def interval_s(self) -> float:
        """Time between passes when other batches keep the pipeline's stages busy."""
        stages = self.step.stage_s  # one alone with drafting
        return max(*stages, self.step.host_s) if len(stages) > 1 else self.seconds


def explain_step(deployment: DeploymentSpec, batch: Batch, what: str) -> Explanation:
    """Price a step operator by operator.

    Args:
        deployment: what runs; one replica of it is looked at.
        batch: the sums of the step.
        what: the batch in words, for the heading.
    """
    batch = verifying(deployment, batch)
    step, drafting = price_step(deployment, batch), draft_passes(deployment, batch)
    rows: dict[str, Row] = {}
    for one in step.operators:
        name, n = one.operator.name, one.operator.count
        old = rows.get(name, Row(name, 0.0, 0.0, 0.0, "", "", 0.0, 0.0))
        rows[name] = Row(
            name,
            old.count + n,
            old.seconds + one.seconds,
            old.limit_s + one.limit_s,
            one.cost.bound_by if one.seconds >= old.seconds else old.bound_by,
            one.cost.source,
            old.flops + n * one.cost.flops,
            old.bytes + n * one.cost.bytes,
        )
    waits = (("kernel launches", step.launch_wait_s, "latency"), ("engine", step.host_s, "host"))
    extra = [Row(name, 1.0, seconds, 0.0, bound, "engine", 0.0, 0.0) for name, seconds, bound in waits if seconds]
    spec = deployment.engine.speculative
    if spec is not None and spec.host_s and batch.draft_tokens:
        extra.append(Row("drafting: host", 1.0, spec.host_s, 0.0, "host", "engine", 0.0, 0.0))
    extra += [_draft_row(one) for one in drafting]
    far = reach(device_of(deployment.accelerator))

    def end(at: float) -> float:
        return _with_drafting(deployment, price_step(deployment, batch, at=at), draft_passes(deployment, batch, at))

    rows_, memory = (*rows.values(), *extra), memory_need(deployment)
    return Explanation(deployment, batch, what, step, rows_, memory, (end(-far), end(far)), drafting)


def _draft_row(one: DraftPass) -> Row:
    n = one.count
    return Row(one.name, n, n * one.seconds, n * one.limit_s, one.bound_by, one.source, n * one.flops, n * one.bytes)


def _with_drafting(deployment: DeploymentSpec, step: StepCost, drafting: tuple[DraftPass, ...]) -> float:
    """Seconds of a step and of its drafting, which follows it or goes on beside it."""
    spec = deployment.engine.speculative
    seconds = sum(one.count * one.seconds for one in drafting)
    if spec is None:
        return step.total_s
    seconds += spec.host_s if drafting or spec.method == "ngram" else 0.0
    return max(step.total_s, seconds) if spec.method == "parallel" else step.total_s + seconds


def step_chart(explanation: Explanation) -> charts.Chart:
    """The step's operators as bars beside the hardware's limit; what takes less than 1 % is one bar."""
    rows = [row for row in explanation.rows if row.seconds >= 0.01 * explanation.seconds]
    small = [row for row in explanation.rows if row.seconds < 0.01 * explanation.seconds]
    names, bounds = [row.name for row in rows], [row.bound_by for row in rows]
    seconds, limits = [row.seconds for row in rows], [row.limit_s for row in rows]
    if small:
        names.append(f"{len(small)} others")
        bounds.append("various")
        seconds.append(sum(row.seconds for row in small))
        limits.append(sum(row.limit_s for row in small))
    return charts.breakdown(names, seconds, limits, bounds)


def explain_text(explanation: Explanation) -> str:
    """The step as text: headline, operators, energy, memory."""
    e = explanation
    share = e.limit_s / e.seconds if e.seconds else float("nan")
    head = (
        f"{e.what} on {_where(e.deployment)}: {format_seconds(e.seconds)} per step "
        f"({format_seconds(e.ends_s[0])} to {format_seconds(e.ends_s[1])}, 80 % interval). The hardware's limit is "
        f"{format_seconds(e.limit_s)} ({percent(share)} of it). Most of it waits for {_waits(e)}; "
        f"prices are {_PROVENANCE[e.step.source]}."
    )
    return "\n\n".join([paragraph(head), _operators(e), _figures(e), _memory(e.memory)])


def _where(deployment: DeploymentSpec) -> str:
    label = deployment.plan.model_copy(update={"replicas": 1}).label()
    devices = f"{deployment.accelerators_per_replica} x {deployment.accelerator.name}"
    return f"{devices} ({label}), {deployment.model.name}"


def _waits(e: Explanation) -> str:
    time: Counter[str] = Counter()
    for row in e.rows:
        time[row.bound_by] += row.seconds  # type: ignore[assignment]
    bound, seconds = time.most_common(1)[0]
    words = {
        "memory": "memory bandwidth",
        "link": "links",
        "host": "the engine on the host",
        "latency": "launch latency",
    }
    return f"{words.get(bound, bound)} ({percent(seconds / sum(time.values()))})"


def _operators(e: Explanation) -> str:
    rows = [
        (
            row.name[:22],
            format_seconds(row.seconds),
            percent(row.seconds / e.seconds),
            row.bound_by,
            format_seconds(row.limit_s) if row.limit_s else "-",
            format_si(row.flops, "FLOP") if row.flops else "-",
            format_si(row.bytes, "B") if row.bytes else "-",
        )
        for row in sorted(e.rows, key=lambda row: -row.seconds)
    ]
    rows.append(("one step", format_seconds(e.seconds), "100%", "", format_seconds(e.limit_s), "", ""))
    shown = table(("operator", "time", "share", "bound by", "limit", "work", "traffic"), rows, "<>><>>>")
    return "\n\n".join([shown, *_sources(e)])


def _sources(e: Explanation) -> list[str]:
    """Which operators have which source, where there are several."""
    by: dict[str, list[str]] = {}
    for row in e.rows:
        if row.source in _PROVENANCE:
            by.setdefault(row.source, []).append(row.name)
    if len(by) < 2:
        return []
    return [paragraph("; ".join(f"{source}: {', '.join(names)}" for source, names in by.items()) + ".", 0, "Prices ")]


def _figures(e: Explanation) -> str:
    said = [f"{number(e.joules)} J per step"]
    if e.batch.sampled:
        said.append(f"{number(e.joules / e.tokens_out)} J per token out")
        said.append(f"{number(e.tokens_out / e.interval_s)} tokens out per second and replica")
    if e.batch.draft_tokens:
        said.append(f"{number(e.tokens_out)} tokens out of {e.batch.sampled:,} rows at the acceptance given")
    text = "Energy and rate: " + ", ".join(said) + "."
    if e.deployment.plan.pipeline_parallel > 1:
        stages = e.deployment.plan.pipeline_parallel
        text += f" The pass crosses {stages} stages, which serve {stages} batches at a time."
    return paragraph(text)


def _memory(need: MemoryNeed) -> str:
    rows = [(row.name, format_bytes(row.bytes) if row.bytes > 0 else "-", row.how) for row in need.explain()]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"Memory of one accelerator ({format_bytes(need.device_bytes)})"]
    lines += [paragraph(how, 0, f"  {name:{width}}  {size:>8}  ") for name, size, how in rows]
    if not need.fits:
        lines.append(paragraph(f"It {need.reason()}.", 2))
    return "\n".join(lines)


def explain_record(e: Explanation) -> dict[str, Any]:
    """The explanation as a plain record."""
    operators = [{**plain(row), "share": row.seconds / e.seconds} for row in e.rows]
    need = e.memory
    return {
        "format": "windtunnel-explain-1",
        "deployment": deployment_record(e.deployment),
        "what": e.what,
        "batch": plain(e.batch),
        "seconds": e.seconds,
        "seconds_interval80": {"low": e.ends_s[0], "high": e.ends_s[1]},
        "limit_s": e.limit_s,
        "joules": e.joules,
        "tokens_out": e.tokens_out,
        "stage_s": list(e.step.stage_s),
        "host_s": e.step.host_s,
        "source": e.step.source,
        "operators": operators,
        "memory": {**plain(need), "kv_bytes": need.kv_bytes, "taken_bytes": need.taken_bytes, "fits": need.fits},
    }
