"""What drafting costs, as tables beside the step surface, and how many tokens are worth drafting at each load.

The drafter is a model like any other: its passes are priced by the same operators and constants as the target's,
under the same engine. Its first pass in a step is over the step's tokens (prompts and verified drafts alike),
each further one over one token per drafting request, or over a depth of its tree. A layer on the target's hidden
states has a product of its own that joins them with the embedding; Medusa's heads are a block and a projection each.

What the engine's host does between two passes has no published figure; `SpeculativeSpec.host_s` is the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.price import pricing_of
from windtunnel.cost.rank_tables import (
    Rank,
    at_contexts,
    decode_tables,
    executed_tables,
    prefill_lines,
    sample_tables,
    tables_of,
)
from windtunnel.cost.surface import CONTEXT_GRID_PER_OCTAVE, DraftSurface, StepSurface, context_grid
from windtunnel.cost.uncertainty import engine_at
from windtunnel.operators.drafting import fusion_operators, head_operators
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import drafter_of
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.speculation import SpeculativeSpec, expected_tokens_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drafter:
    """A drafting model's rank, and how large its tables are."""

    rank: Rank
    spec: SpeculativeSpec
    engine: EngineSpec
    max_tokens: int
    max_requests: int
    max_context: int

    def tokens(self, size: int) -> tuple[Floats, Floats]:
        """Seconds and replica joules of a pass over 0 to `size` tokens, without attention and head."""
        seconds, joules = (one[: size + 1] for one in executed_tables(self.rank, self.engine, size))
        if self.spec.method not in ("eagle", "mtp"):
            return seconds, joules
        rows = np.arange(size + 1.0)
        fused_s, fused_j = tables_of(self.rank, fusion_operators(self.rank.model, self.rank.plan, rows), size)
        return seconds + fused_s, joules + fused_j

    def heads(self, size: int) -> tuple[Floats, Floats]:
        """The same of LM head and sampling."""
        seconds, joules = sample_tables(self.rank, size)
        return seconds, joules

    def attention(self, queries: int) -> Floats:
        """Decode attention of a pass over (requests, mean context), windowed layers included."""
        full, windowed, _ = decode_tables(self.rank, self.max_requests, self.max_context, queries)
        if not windowed.size:
            return full
        inside = np.minimum(context_grid(self.max_context), self.rank.model.attended_tokens)
        return np.asarray(full + at_contexts(windowed, inside, self.max_context))


def with_drafts(
    plain: StepSurface,
    rank: Rank,
    deployment: DeploymentSpec,
    kernels: MeasuredKernels | None = None,
    at: float = 0.0,
    lengths: Ints | None = None,
) -> StepSurface:
    """The surface of a deployment with speculative decoding, from that of steps without drafts.

    Args:
        plain: the surface of steps without drafts.
        rank: what its tables are about.
        deployment, kernels, at: as for `step_surface`.
        lengths: as `DraftSurface.lengths`, where they are known already.
    """
    spec = deployment.engine.speculative
    if spec is None:
        return plain
    requests, context = plain.max_requests, deployment.max_model_len
    rows = min(requests * (1 + spec.nodes), plain.max_tokens)
    sample_s, sample_j = sample_tables(rank, rows)
    plain = replace(plain, sample_s=sample_s, sample_j=sample_j)
    drafter = _drafter(deployment, plain, kernels, at)
    drafting = _drafting(spec, rank, drafter, plain)
    beyond = plain.decode_s - decode_tables(rank, requests, context)[0]
    if lengths is None:
        lengths = _lengths(deployment, plain, drafting, decode_tables(rank, requests, context, 1 + spec.nodes)[0])
    cells = _cells(lengths, plain.decode_s.shape)
    decode_s = _by_cells(lambda drafts: decode_tables(rank, requests, context, 1 + drafts)[0], cells)
    window_s = plain.decode_window_s
    if window_s.size:
        window_s = _by_cells(lambda drafts: decode_tables(rank, requests, context, 1 + drafts)[1], cells)
    first_s = drafting.decode_s
    if drafter is not None and spec.method != "parallel":
        first_s = _by_cells(lambda drafts: drafter.attention(1 + drafts), cells)
    return replace(
        plain,
        decode_s=decode_s + beyond,
        decode_window_s=window_s,
        decode_j=decode_tables(rank, requests, context, 1 + spec.nodes)[2],
        static_w=plain.static_w + deployment.drafter_accelerators * deployment.accelerator.idle_w,
        drafting=replace(drafting, lengths=lengths, decode_s=first_s),
    )


def _drafter(
    deployment: DeploymentSpec, plain: StepSurface, kernels: MeasuredKernels | None, at: float
) -> Drafter | None:
    found = drafter_of(deployment)
    spec = deployment.engine.speculative
    if found is None or spec is None:
        return None
    device, links = pricing_of(found, kernels, at)
    engine = engine_at(found.hosted_engine, at).model_copy(update={"step_device_s": 0.0})
    plan = found.plan.model_copy(update={"replicas": 1})
    rank = Rank(found.model, plan, device, links.tensor)
    return Drafter(rank, spec, engine, plain.max_tokens, plain.max_requests, deployment.max_model_len)


def _drafting(spec: SpeculativeSpec, rank: Rank, drafter: Drafter | None, plain: StepSurface) -> DraftSurface:
    """The drafter's tables, for the spec's own number of tokens."""
    nothing, none = np.zeros(0), np.zeros((0, 0))
    found = DraftSurface(
        lengths=np.full((1, 1), spec.nodes),
        depth=spec.depth,
        passes=0,
        one_pass=False,
        beside=spec.method == "parallel",
        step_s=spec.host_s,
        token_s=nothing, token_j=nothing, head_s=nothing, head_j=nothing, further_s=nothing, further_j=nothing,
        decode_s=none, further_decode_s=none, decode_j=np.zeros(2), prefill_s=np.zeros(8), prefill_j=np.zeros(8),
    )  # fmt: skip
    requests = plain.max_requests
    if spec.method == "medusa":
        operators = head_operators(rank.model, rank.plan, np.arange(requests + 1.0), spec.depth)
        head_s, head_j = tables_of(rank, operators, requests)
        return replace(found, passes=1, head_s=head_s, head_j=head_j)
    if drafter is None:
        return found
    token_s, token_j = drafter.tokens(plain.max_tokens)
    head_s, head_j = drafter.heads(requests * (spec.draft_tokens if spec.one_pass else 1))
    further_s, further_j, further_decode_s = _further(drafter)
    prefill_s, prefill_j = prefill_lines(drafter.rank)
    return replace(
        found,
        passes=1 if spec.one_pass else spec.draft_tokens,
        one_pass=spec.one_pass,
        token_s=token_s, token_j=token_j, head_s=head_s, head_j=head_j, further_s=further_s, further_j=further_j,
        decode_s=drafter.attention(1 + spec.nodes if spec.method != "parallel" else 1),
        further_decode_s=further_decode_s,
        decode_j=decode_tables(drafter.rank, requests, drafter.max_context)[2][:2],
        prefill_s=prefill_s,
        prefill_j=prefill_j,
    )  # fmt: skip


def _further(drafter: Drafter) -> tuple[Floats, Floats, Floats]:
    """One pass after the first, per number of drafting requests: mean over the depths of a tree."""
    widths = drafter.spec.widths[:-1] or (1,)
    n = np.arange(drafter.max_requests + 1)
    size = drafter.max_requests * max(widths)
    token_s, token_j = drafter.tokens(size)
    head_s, head_j = drafter.heads(size)
    seconds = np.mean([token_s[n * width] + head_s[n * width] for width in widths], axis=0)
    joules = np.mean([token_j[n * width] + head_j[n * width] for width in widths], axis=0)
    return seconds, joules, np.mean([drafter.attention(width) for width in widths], axis=0)


def _cells(lengths: Ints, shape: tuple[int, ...]) -> Ints:
    """Tokens drafted in every cell of a table over (requests, mean context)."""
    octaves = np.maximum(np.arange(shape[1]) - 1, 0) // CONTEXT_GRID_PER_OCTAVE
    return np.broadcast_to(lengths[:, np.minimum(octaves, lengths.shape[1] - 1)], shape)


def _by_cells(table: Callable[[int], Floats], cells: Ints) -> Floats:
    """Each cell from the table that belongs to its number of drafts."""
    found = np.zeros(cells.shape)
    for drafts in np.unique(cells):
        mine = cells == drafts
        found[mine] = table(int(drafts))[mine]
    return found


def _lengths(deployment: DeploymentSpec, plain: StepSurface, drafting: DraftSurface, verified: Floats) -> Ints:
    """How many tokens are drafted; see `DraftSurface.lengths`."""
    spec, requests = deployment.engine.speculative, plain.max_requests
    assert spec is not None
    if spec.disable_above and spec.disable_above < requests:
        return np.where(np.arange(requests + 1) <= spec.disable_above, spec.nodes, 0)[:, None]
    if spec.adaptive != "load":
        return np.full((1, 1), spec.nodes)
    choices = np.array([0, spec.nodes] if spec.tree else range(spec.nodes + 1))
    # The middle of every octave stands for it.
    columns = np.arange(CONTEXT_GRID_PER_OCTAVE // 2, plain.decode_s.shape[1], CONTEXT_GRID_PER_OCTAVE)
    rates = np.stack([_tokens_per_s(deployment, plain, drafting, verified, int(k), columns) for k in choices])
    return np.asarray(choices[np.argmax(rates, axis=0)])


def _tokens_per_s(
    deployment: DeploymentSpec,
    plain: StepSurface,
    drafting: DraftSurface,
    verified: Floats,
    drafts: int,
    columns: Ints,
) -> Floats:
    """Tokens per second when 0, 1, 2, ... requests decode with so many drafts, at columns of the context grid."""
    engine, spec = deployment.hosted_engine, deployment.engine.speculative
    assert spec is not None
    n = np.arange(plain.max_requests + 1)[:, None]
    rows = n * (1 + drafts)
    held = np.minimum(rows, plain.max_tokens)
    attention = (verified if drafts else plain.decode_s)[:, columns]
    seconds = plain.token_s[held] + attention + plain.sample_s[np.minimum(held, len(plain.sample_s) - 1)]
    seconds = seconds + (drafting_s(drafting, n, held, drafts, columns) if drafts else 0.0)
    host = engine.step_host_s + engine.request_host_s * n
    step = np.maximum(seconds, host) if engine.async_scheduling else seconds + host
    tokens = n * expected_tokens_of(spec, spec.depth if spec.tree and drafts else drafts)
    return np.where(rows > plain.max_tokens, 0.0, tokens / np.maximum(step, 1e-12))


def drafting_s(drafting: DraftSurface, requests: Ints, tokens: Ints, drafts: int, columns: Ints) -> Floats:
    """Seconds of drafting so many tokens in steps of decodes alone.

    Args:
        drafting: the drafter's tables.
        requests, tokens: of the steps, as columns of one entry per step.
        drafts: tokens drafted per request.
        columns: places on the context grid.
    """
    seconds = np.full((len(requests), len(columns)), drafting.step_s)
    if drafting.passes == 0:
        return seconds
    rows = requests * (drafts if drafting.one_pass else 1)
    seconds = seconds + drafting.head_s[rows]
    if not drafting.token_s.size:
        return seconds
    first = np.minimum(tokens + rows - requests, len(drafting.token_s) - 1)
    seconds = seconds + drafting.token_s[first] + drafting.decode_s[np.ravel(requests)][:, columns]
    further = drafting.further_s[requests] + drafting.further_decode_s[np.ravel(requests)][:, columns]
    return np.asarray(seconds + (min(drafting.passes, drafts + drafting.beside) - 1) * further)
