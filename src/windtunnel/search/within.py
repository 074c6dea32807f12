"""Bounds from the cost model itself: tighter than the speed of light, and exact for what the simulator will do.

A step cannot cost less per token than the cheapest entry of the surface's token table, whatever the batch, and
every query-key pair costs what the prefill line says. Summed over a workload this gives the least busy time
of the slowest pipeline stage, hence the most requests per second; a decode step alone gives the least TPOT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.cost.surface import StepSurface
from windtunnel.workload.table import RequestTable


@dataclass(frozen=True, slots=True)
class ModelBounds:
    """What no schedule of one replica beats under its step surface.

    Attributes:
        busy_s: least time that the slowest stage works for the whole workload (no prefix hits assumed if
            `cached` is false).
        tpot_s: least time between two tokens of a request.
    """

    busy_s: float
    tpot_s: float


def model_bounds(surface: StepSurface, workload: RequestTable) -> ModelBounds:
    """The bounds of one replica under a workload.

    Prompts that share prefixes are counted as fully cached, since the cache may hold them.
    """
    outputs = float(workload.output_tokens.sum())
    prompts = workload.prompt_tokens.astype(np.float64)
    if workload.shares_prefixes:
        prompts = np.ones_like(prompts)
    count = np.arange(1, surface.max_tokens + 1)
    per_token = float(np.min(surface.token_s[1:] / count))
    sampled = float(np.min(surface.sample_s[1:] / np.arange(1, surface.max_requests + 1)))
    _, token, pair, window_pair, _ = surface.prefill_s
    pairs = float((prompts * (prompts + 1.0) / 2.0).sum())
    body = per_token * (float(prompts.sum()) + outputs - len(workload)) + token * float(prompts.sum()) + pair * pairs
    if surface.window_tokens:
        inside = np.minimum(prompts, surface.window_tokens)
        body += window_pair * float((inside * (inside + 1.0) / 2.0 + (prompts - inside) * surface.window_tokens).sum())
    share = surface.stage_share
    stage = body * share
    stage[-1] += sampled * outputs
    return ModelBounds(busy_s=float(stage.max()), tpot_s=_least_tpot_s(surface))


def _least_tpot_s(surface: StepSurface) -> float:
    hops = (len(surface.stage_share) - 1) * (float(surface.hop_s[1]) if len(surface.hop_s) else 0.0)
    window = float(surface.decode_window_s[1, 0]) if surface.decode_window_s.size else 0.0
    body = float(surface.token_s[1]) + float(surface.decode_s[1, 0]) + window
    return surface.host_s + surface.host_request_s + body + float(surface.sample_s[1]) + hops
