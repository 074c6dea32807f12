"""A training step's timeline in the trace-event format that Perfetto and Chrome open.

Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
(complete events `X` with microseconds, metadata events `M`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from windtunnel.report.text import percent
from windtunnel.training.pipeline import Run
from windtunnel.training.step import RankTime, StepTime, price

Event = dict[str, Any]

MOST_PASSES = 100_000
"""Passes in one file; more (some 10 MB) would open slowly and show nothing else: the middle repeats itself."""
KINDS = {"F": "forward", "B": "input gradient", "W": "weight gradient", "X": "backward"}
_COMPUTE, _COMMUNICATION, _UPDATE = 0, 1, 2
_THREADS = ("compute", "communication outside the passes", "update and host")


def pipeline_trace(step: StepTime, *, most_passes: int = MOST_PASSES) -> dict[str, Any]:
    """One process per pipeline rank: its passes, then gradient reduction, update and the host's own time.

    Args:
        step: a priced step; without a timeline it is priced again with one.
        most_passes: passes beyond this number are cut out of the step's middle, with a slice that says so.
    """
    step = with_timeline(step)
    shown, gap = _bounded(step.timeline, most_passes)
    events: list[Event] = []
    for rank, one in enumerate(step.ranks):
        events += _names(rank, one, step)
    events += [_pass(run, step) for run in shown]
    for rank, one in enumerate(step.ranks):
        events += _after(rank, one, step)
        if gap is not None:
            events.append(_slice(f"{gap[2]:,} passes not shown (all ranks)", "cut", rank, _COMPUTE, gap[0], gap[1], {}))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": _about(step, gap)}


def with_timeline(step: StepTime) -> StepTime:
    """The step with the passes of every rank."""
    return step if step.timeline else price(step.job, timeline=True)


def ends_s(one: RankTime) -> float:
    """Seconds that a rank reduces gradients and gathers weights outside its passes."""
    inside = ("bubble", "optimizer", "offload", "host")
    return max(sum(value for name, value in one.parts.items() if name not in inside) - one.busy_s, 0.0)


def direction(run: Run, step: StepTime) -> int:
    """1 for microbatches that enter a DualPipe at its far end, else 0."""
    return int(step.job.plan.pipeline_schedule == "dualpipe" and run.stage != run.rank)


def _bounded(runs: Sequence[Run], most: int) -> tuple[list[Run], tuple[float, float, int] | None]:
    """The runs to show, and (start, end, passes) of what was cut out of the middle."""
    ordered = sorted(runs, key=lambda run: (run.start_s, run.rank))
    if len(ordered) <= most:
        return ordered, None
    early = max(run.end_s for run in ordered[: most // 2])
    late = min(run.start_s for run in ordered[len(ordered) - most // 2 :])
    if late <= early:
        return ordered, None
    shown = [run for run in ordered if run.end_s <= early or run.start_s >= late]
    return shown, (early, late, len(ordered) - len(shown))


def _names(rank: int, one: RankTime, step: StepTime) -> Iterator[Event]:
    layers = f"{one.layers} layer" + ("" if one.layers == 1 else "s")
    yield _meta("process_name", rank, 0, name=f"pipeline rank {rank} ({layers})")
    yield _meta("process_labels", rank, 0, labels=f"{percent(one.busy_s / step.seconds)} busy")
    yield _meta("process_sort_index", rank, 0, sort_index=rank)
    for thread, name in enumerate(_THREADS):
        yield _meta("thread_name", rank, thread, name=name)
        yield _meta("thread_sort_index", rank, thread, sort_index=thread)


def _pass(run: Run, step: StepTime) -> Event:
    plan = step.job.plan
    about: dict[str, Any] = {"microbatch": run.microbatch, "stage": run.stage}
    if plan.virtual_stages > 1:
        about["chunk"] = run.stage // plan.pipeline_parallel
    name = f"{KINDS[run.kind]} {run.microbatch}"
    if plan.pipeline_schedule == "dualpipe":
        about["enters at"] = "the last rank" if direction(run, step) else "the first rank"
        name += "'" if direction(run, step) else ""
    return _slice(name, KINDS[run.kind], run.rank, _COMPUTE, run.start_s, run.end_s, about)


def _after(rank: int, one: RankTime, step: StepTime) -> Iterator[Event]:
    """What follows the passes; offloaded copies that nothing hides are drawn before the update."""
    data = ends_s(one)
    if data > 0.0:
        about = {"what": "gradients reduced and weights gathered, as far as no pass hides it"}
        yield _slice("data parallel", "data", rank, _COMMUNICATION, one.end_s, one.end_s + data, about)
    at = step.seconds - sum(one.parts[name] for name in ("offload", "optimizer", "host"))
    for part, name in (("offload", "offload"), ("optimizer", "optimiser"), ("host", "host")):
        seconds = one.parts[part]
        if seconds > 0.0:
            yield _slice(name, part, rank, _UPDATE, at, at + seconds, {})
        at += seconds


def _about(step: StepTime, gap: tuple[float, float, int] | None) -> dict[str, str]:
    """What a reader should know, as the format's free text."""
    job = step.job
    found = {
        "made by": "Windtunnel: predicted, not measured",
        "job": f"{job.model.name}, {job.gpus:,} x {job.accelerator.name}, {job.plan.label()}",
        "step": f"{step.seconds:.6g} s",
        "microbatches": str(job.microbatches),
        "passes": "TP, CP and expert communication that a pass waits for is inside it",
    }
    for rank, one in enumerate(step.ranks):
        parts = ", ".join(f"{name} {seconds:.4g}" for name, seconds in one.parts.items() if seconds > 0.0)
        found[f"rank {rank}, seconds"] = parts
    if gap is not None:
        found["not shown"] = f"{gap[2]:,} passes between {gap[0]:.6g} s and {gap[1]:.6g} s, to keep the file small"
    return found


def _slice(name: str, category: str, rank: int, thread: int, start_s: float, end_s: float, about: Event) -> Event:
    found: Event = {"name": name, "cat": category, "ph": "X", "pid": rank, "tid": thread}
    found |= {"ts": round(start_s * 1e6, 3), "dur": round((end_s - start_s) * 1e6, 3)}
    return found | {"args": about} if about else found


def _meta(what: str, rank: int, thread: int, /, **about: Any) -> Event:
    return {"name": what, "ph": "M", "pid": rank, "tid": thread, "args": about}
