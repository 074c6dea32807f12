"""A deployment's step cost compiled into a `StepSurface`.

The same operators as `price_step` expands, with arrays for the sums of the batch, priced by the
same functions: the two differ only by the interpolation between contexts. Tables do not depend on
the number of replicas or stages, so they are kept and shared between deployments that differ in
those; a table for fewer tokens is a slice of a longer one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.cost.adapter_surface import with_adapters
from windtunnel.cost.depth import with_depth
from windtunnel.cost.draft_surface import with_drafts
from windtunnel.cost.energy import capped
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.overlap import with_overlap
from windtunnel.cost.price import Links, pricing_of
from windtunnel.cost.rank_tables import (
    Rank,
    decode_tables,
    executed_tables,
    mixed_tables,
    prefill_lines,
    rounded,
    sample_tables,
    tails,
    token_launches,
)
from windtunnel.cost.steps import stage_shares
from windtunnel.cost.surface import StepSurface, context_grid
from windtunnel.cost.uncertainty import engine_at
from windtunnel.operators.expand import hop_operators
from windtunnel.specs.deployment import DeploymentSpec

Floats = npt.NDArray[np.float64]


def step_surface(
    deployment: DeploymentSpec,
    kernels: MeasuredKernels | None = None,
    spread: tuple[float, ...] = (),
    at: float = 0.0,
) -> StepSurface:
    """The step surface of one replica.

    Args:
        deployment: what runs. Its engine's `max_num_batched_tokens`, `max_num_seqs` and the
            deployment's `max_model_len` bound the tables.
        kernels: measured kernels of the device, asked before the cost model.
        spread: contexts that requests have in a step, relative to their mean, as quantiles of equal weight;
            longer ones make a tail in attention whose lanes were measured. Empty: all alike.
        at: from -1 to 1, where in their 80 % intervals all costs lie; 0 is the prediction itself.
    """
    model, engine = deployment.model, engine_at(deployment.hosted_engine, at)
    device, links = pricing_of(deployment, kernels, at)
    plan = deployment.plan.model_copy(update={"pipeline_parallel": 1, "replicas": 1})
    rank = Rank(model, plan, device, links.tensor)
    max_tokens = max(engine.max_num_batched_tokens, engine.max_num_seqs)
    tokens_s, tokens_j = executed_tables(rank, engine, max_tokens)
    sample_s, sample_j = sample_tables(rank, rounded(engine.max_num_seqs))
    decode_s, window_s, decode_j = decode_tables(rank, engine.max_num_seqs, deployment.max_model_len)
    if spread:
        decode_s = decode_s + tails(rank, engine, spread, context_grid(deployment.max_model_len))
    mixed_s, mixed_token_s = mixed_tables(rank, engine.max_num_seqs, deployment.max_model_len)
    prefill_s, prefill_j = prefill_lines(rank)
    if engine.prefill_launch_s or engine.prefill_step_s:
        waits = engine.prefill_step_s + token_launches(model, plan, engine.kernels.fused) * engine.prefill_launch_s
        prefill_s = prefill_s + np.array([waits, *[0.0] * 7])
    hop_s, hop_j = _hops(deployment, rank, links, max_tokens)
    surface = StepSurface(
        token_s=tokens_s[: max_tokens + 1],
        sample_s=sample_s[: engine.max_num_seqs + 1],
        decode_s=decode_s,
        decode_window_s=window_s,
        window_tokens=model.attended_tokens,
        prefill_s=prefill_s,
        stage_share=np.asarray(stage_shares(deployment)),
        hop_s=hop_s,
        host_s=engine.step_host_s,
        host_request_s=engine.request_host_s,
        token_j=tokens_j[: max_tokens + 1] + hop_j,
        sample_j=sample_j[: engine.max_num_seqs + 1],
        decode_j=decode_j,
        prefill_j=prefill_j,
        decode_mixed_s=mixed_s,
        decode_mixed_token_s=mixed_token_s,
        static_w=deployment.plan.accelerators_per_replica * deployment.accelerator.idle_w,
    )
    lengths = None
    if at and engine.speculative is not None and engine.speculative.adaptive == "load":
        drafting = step_surface(deployment, kernels, spread).drafting
        lengths = drafting.lengths if drafting is not None else None
    surface = with_depth(with_adapters(surface, rank, deployment), engine.depth, model.layers)
    return with_overlap(with_drafts(surface, rank, deployment, kernels, at, lengths), engine)


def _hops(deployment: DeploymentSpec, rank: Rank, links: Links, max_tokens: int) -> tuple[Floats, Floats | float]:
    """Seconds of one hop per token count, and joules of all hops of the replica."""
    plan = deployment.plan
    hops = plan.pipeline_parallel - 1
    if not hops:
        return np.zeros(0), 0.0
    operators = hop_operators(deployment.model, plan, np.arange(max_tokens + 1.0))
    seconds = rank.seconds(operators, links)
    return seconds / hops, plan.ranks_per_stage * capped(rank.joules(operators), seconds, rank.energy)
