"""Draw a request table from a synthetic workload."""

from __future__ import annotations

import numpy as np

from windtunnel.specs.workload import WorkloadSpec
from windtunnel.workload.arrivals import draw_arrivals
from windtunnel.workload.lengths import draw_length, draw_lengths
from windtunnel.workload.prefixes import chain_turns
from windtunnel.workload.sessions import closed_starts, table_of_turns
from windtunnel.workload.table import Ints, RequestTable, request_table


def synthesize(spec: WorkloadSpec, rng: np.random.Generator | None = None) -> RequestTable:
    """The requests of a synthetic workload.

    The arrival rate is that of requests: with sessions of several turns, conversations start at
    the rate divided by the mean number of turns drawn. The prompt distribution is that of new
    text per turn; a system prompt and the history come on top of it.

    Args:
        spec: the workload; `trace`, `rate_scale`, the window and clipping are not looked at.
        rng: source of randomness; from `spec.seed` when not given.
    """
    rng = rng if rng is not None else np.random.default_rng(spec.seed)
    n = spec.requests
    # separate streams, so that changing one part of a workload leaves the others as they were
    arrival_rng, length_rng, turn_rng, group_rng = rng.spawn(4)
    text_tokens, output_tokens = draw_lengths(spec.prompt, spec.output, spec.correlation, n, length_rng)
    shared = spec.shared_prefix_groups > 0 and spec.shared_prefix_tokens > 0
    if spec.sessions is None and not shared:
        arrival_s, after, delay_s = draw_arrivals(spec.arrivals, n, arrival_rng)
        return request_table(arrival_s, text_tokens, output_tokens, after=after, delay_s=delay_s)
    turns = _turns(spec, turn_rng)
    group = group_rng.integers(0, max(spec.shared_prefix_groups, 1), len(turns))
    system_tokens = np.full(len(turns), spec.shared_prefix_tokens if shared else 0, dtype=np.int64)
    think_s = turn_rng.exponential(spec.sessions.think_s, n) if spec.sessions else np.zeros(n)
    if spec.sessions is not None and spec.arrivals.kind == "closed":
        start = closed_starts(turns, think_s, spec.arrivals.concurrency, spec.arrivals.think_s)
    else:
        starts = spec.arrivals.model_copy(update={"rate_per_s": spec.arrivals.rate_per_s * len(turns) / n})
        start = draw_arrivals(starts, len(turns), arrival_rng)
    return table_of_turns(
        turns,
        chain_turns(turns, text_tokens, output_tokens, group, system_tokens),
        output_tokens,
        start,
        think_s,
        group if shared else np.zeros(len(turns), dtype=np.int64),
    )


def _turns(spec: WorkloadSpec, rng: np.random.Generator) -> Ints:
    """Turns of each session until there are enough requests; the last session is cut short."""
    if spec.sessions is None:
        return np.ones(spec.requests, dtype=np.int64)
    drawn = draw_length(spec.sessions.turns, spec.requests, rng)
    total = np.cumsum(drawn)
    sessions = int(np.searchsorted(total, spec.requests)) + 1
    turns = drawn[:sessions]
    turns[-1] -= int(total[sessions - 1]) - spec.requests
    return turns
