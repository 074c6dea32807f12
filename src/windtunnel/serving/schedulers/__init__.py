"""The schedulers by name: what each one is, and where its rules come from.

Importing this costs nothing; the modules themselves are part of the kernel (`kernel.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windtunnel.errors import Problem, SpecError, nearest

Queue = Literal["policy", "key", "scan"]


@dataclass(frozen=True, slots=True)
class SchedulerInfo:
    """A scheduler.

    Attributes:
        name: what `EngineSpec.scheduler` and `SchedulerSettings.scheduler` call it.
        title: its name in full.
        source: the paper or code that its rules follow.
        summary: what it does, in one line.
        module: its module below `windtunnel.serving`.
        queue: how waiting requests are kept: `policy` (first come first served or by priority, as
            the engine's setting says), `key` (by a number known at arrival), `scan` (a list that
            the scheduler orders anew as it goes).
    """

    name: str
    title: str
    source: str
    summary: str
    module: str
    queue: Queue = "policy"


_ALL = (
    SchedulerInfo(
        "vllm",
        "vLLM v1",
        "vLLM 0.32, vllm/v1/core/sched/scheduler.py and kv_cache_manager.py",
        "running requests first, then waiting ones, from one budget of tokens; preemption by recomputation",
        "vllm",
    ),
    SchedulerInfo(
        "custom",
        "a policy of your own",
        "docs/background/schedulers.md",
        "composes like vllm and asks your functions for the waiting order, the victim, the chunk and admission",
        "schedulers.custom",
        "scan",
    ),
)

SCHEDULERS: dict[str, SchedulerInfo] = {info.name: info for info in _ALL}
"""Every scheduler by its name."""


def scheduler_info(name: str) -> SchedulerInfo:
    """The scheduler of this name.

    Raises:
        SpecError: there is none.
    """
    if name not in SCHEDULERS:
        names = tuple(SCHEDULERS)
        raise SpecError(
            Problem("unknown scheduler", "", "scheduler", repr(name), ", ".join(names), nearest(name, names))
        )
    return SCHEDULERS[name]
