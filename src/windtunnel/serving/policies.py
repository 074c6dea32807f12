"""Every named policy of serving with its source: schedulers, routers, orders of eviction.

Importing this costs nothing (the kernel is not imported).
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.serving.schedulers import SCHEDULERS


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy: its kind (`scheduler`, `router`, `eviction`), what it is called, does and follows."""

    kind: str
    name: str
    title: str
    summary: str
    source: str


_ROUTERS = (
    ("round_robin", "round robin", "replicas take turns", "common practice"),
    ("random", "random", "an even draw", "common practice"),
    ("least_outstanding", "least outstanding", "the replica with the fewest requests", "common practice"),
    ("least_kv", "least KV", "the shortest queue, of equals the fewest KV blocks in use", "common practice"),
    (
        "power_of_two",
        "power of two choices",
        "two replicas are drawn, the one with fewer requests is taken",
        "Mitzenmacher, IEEE TPDS 2001",
    ),
    (
        "custom",
        "a policy of your own",
        "the replica for which your function is smallest",
        "docs/background/schedulers.md",
    ),
)
_EVICTIONS = (
    ("lru", "least recently used", "what was released longest ago makes room, the end of a prompt first", "vLLM 0.32"),
    ("lfu", "least frequently used", "what was used least often since it was cached makes room", "common practice"),
    (
        "belady",
        "Belady's oracle",
        "what the workload uses last makes room: on one replica a bound on the others",
        "Belady, IBM Systems Journal 1966",
    ),
    (
        "learned",
        "learning-augmented marking",
        "the lowest predicted rate of reuse makes room, what the present phase used is spared",
        "Lykouris and Vassilvitskii, ICML 2018",
    ),
)


def policies() -> tuple[PolicyInfo, ...]:
    """Every policy, by kind."""
    schedulers = [PolicyInfo("scheduler", i.name, i.title, i.summary, i.source) for i in SCHEDULERS.values()]
    others = [PolicyInfo(kind, *row) for kind, rows in (("router", _ROUTERS), ("eviction", _EVICTIONS)) for row in rows]
    return (*schedulers, *others)
