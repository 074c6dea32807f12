"""Bounds from the cost model itself: tighter than the speed of light, and exact for what the simulator will do.

A step cannot cost less per token than the cheapest entry of the surface's token table, whatever the batch, and
every query-key pair costs what the prefill line says. Summed over the work that the targets force
(`search.demand`) this gives the least busy time of the slowest pipeline stage, hence the fewest replicas; a decode
step alone gives the least TPOT; and a queue too long to be worked off within a limit gives the moment from
which a run is lost.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.metrics.steady import bounds_waiting
from windtunnel.search.demand import Demand, allowed_beyond, allowed_unmet, limit_s
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.table import AT_ARRIVAL, RequestTable

Floats = npt.NDArray[np.float64]

OVERLOAD_SHARE = 0.05
"""Where the targets do not bound waiting, a replica has not kept up once this share of all requests waits there..."""
OVERLOAD_MINIMUM = 500
"""...and at least so many."""


def least_busy_s(surface: StepSurface, demand: Demand, *, cached: bool = False) -> float:
    """Least time that the slowest stage of replicas works for a demand, all replicas together.

    Args:
        surface: the cost of a step of one replica.
        demand: the work.
        cached: count prompts as found in the prefix cache but for one token, as they may be.
    """
    prompts = np.ones(len(demand)) if cached else demand.prompt_tokens.astype(np.float64)
    outputs = float(demand.output_tokens.sum())
    decoded = surface.least_depth * _per_token_s(surface) * (outputs - len(demand))
    body = float(_prefill_s(surface, prompts).sum()) + decoded
    sampled = float(np.min(surface.sample_s[1:] / np.arange(1, len(surface.sample_s))))
    stage = body * surface.stage_share
    stage[-1] += sampled * outputs
    return float(stage.max())


def least_tpot_s(surface: StepSurface) -> float:
    """Least time between two tokens of a request: a step that decodes it alone, and accepts all its drafts."""
    hops = (len(surface.stage_share) - 1) * (float(surface.hop_s[1]) if len(surface.hop_s) else 0.0)
    window = float(surface.decode_window_s[1, 0]) if surface.decode_window_s.size else 0.0
    body = float(surface.token_s[1]) + float(surface.decode_s[1, 0]) + window
    step_s = surface.host_s + surface.host_request_s + body + float(surface.sample_s[1]) + hops
    return step_s / (1.0 + (surface.drafting.depth if surface.drafting is not None else 0))


def hopeless_backlog(surface: StepSurface, workload: RequestTable, slo: SloSpec, max_num_seqs: int) -> int | None:
    """How many requests waiting at one replica mean that the targets are lost; None when none do.

    Of the requests that wait at a moment, those that do not get their first token within the limit are beyond it. The
    cheapest are the most that can; when the others are more than the targets allow, nothing that follows helps.
    Preempted requests wait too, but have their first token: at most max_num_seqs of them.

    Targets that do not bound waiting need a deployment that keeps up: there, a fixed share of the requests in one
    queue is the end. Traffic that waits by design (all at once, closed loops) has no such limit.
    """
    count = len(workload)
    if (workload.after != AT_ARRIVAL).any():
        return None
    if not bounds_waiting(slo):
        return max(OVERLOAD_MINIMUM, int(OVERLOAD_SHARE * count)) if workload.rate_per_s > 0 else None
    if workload.shares_prefixes:
        prompts = np.ones(count)
    else:
        prompts = np.sort(workload.prompt_tokens).astype(np.float64)
    served_s = np.cumsum(_prefill_s(surface, prompts)) * float(surface.stage_share.max())
    lost = count
    for target in slo.targets:
        if target.metric != "tpot":
            late = allowed_unmet(slo, count) if slo.attainment else allowed_beyond(target, count)
            in_time = int(np.searchsorted(served_s, limit_s(target), side="right"))
            lost = min(lost, late + in_time + max_num_seqs + 1)
    return lost if lost < count else None


def _per_token_s(surface: StepSurface) -> float:
    return float(np.min(surface.token_s[1:] / np.arange(1, surface.max_tokens + 1)))


def _prefill_s(surface: StepSurface, prompts: Floats) -> Floats:
    """Least seconds of the whole model for each of these prompts."""
    _, token, pair, window_pair = surface.prefill_s[:4]
    seconds = (_per_token_s(surface) + token) * prompts + pair * prompts * (prompts + 1.0) / 2.0
    if surface.window_tokens:
        inside = np.minimum(prompts, surface.window_tokens)
        seconds += window_pair * (inside * (inside + 1.0) / 2.0 + (prompts - inside) * surface.window_tokens)
    return np.asarray(seconds, dtype=np.float64)
