"""The price of drafting in one step, pass by pass, as `price_step` prices the step itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.energy import capped, energy_of, joules_of
from windtunnel.cost.padding import padded_tokens
from windtunnel.cost.price import Cost, price, pricing_of
from windtunnel.cost.steps import price_step
from windtunnel.cost.surface import CONTEXT_GRID_LOG2_FIRST
from windtunnel.operators.batch import Batch
from windtunnel.operators.drafting import fusion_operators, head_operators
from windtunnel.operators.operator import Operator
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import drafter_of
from windtunnel.specs.speculation import SpeculativeSpec

_OF_THE_STEP = (
    "step_host_s", "request_host_s", "overlapped_request_s", "step_device_s", "prefill_step_s", "prefill_launch_s",
    "eager_launch_s", "eager_latent_s", "eager_experts_s",
)  # fmt: skip
"""Times of the engine that come once a step, whatever is drafted."""


@dataclass(frozen=True, slots=True)
class DraftPass:
    """A pass of the drafter, or several alike.

    Attributes:
        name: which.
        count: how many.
        seconds, limit_s, joules: of one; the limit is the speed of light.
        bound_by: what most of its time waits for.
        source: what prices most of it.
        flops, bytes: work and traffic of a rank in one.
    """

    name: str
    count: int
    seconds: float
    limit_s: float
    joules: float
    bound_by: str
    source: str
    flops: float
    bytes: float


def verifying(deployment: DeploymentSpec, batch: Batch) -> Batch:
    """The batch with the drafts that its decoding requests verify in a deployment that speculates."""
    spec = deployment.engine.speculative
    if spec is None or not batch.decode_requests or batch.draft_tokens:
        return batch
    if spec.adaptive != "load" and not spec.disable_above:
        return batch.with_drafts(spec.nodes)
    drafting = step_surface(deployment).drafting
    assert drafting is not None
    row = min(batch.requests, len(drafting.lengths) - 1)
    mean = batch.decode_context_tokens // batch.decode_requests
    octave = min(max(mean.bit_length() - 1 - CONTEXT_GRID_LOG2_FIRST, 0), drafting.lengths.shape[1] - 1)
    return batch.with_drafts(int(drafting.lengths[row, octave]))


def draft_passes(deployment: DeploymentSpec, batch: Batch, at: float = 0.0) -> tuple[DraftPass, ...]:
    """What drafting takes after a step; nothing where the step is not followed by drafts.

    Args:
        deployment: the target's.
        batch: the step, with the drafts that it verifies.
        at: from -1 to 1, where in their 80 % intervals all costs lie.
    """
    spec = deployment.engine.speculative
    drafters = batch.sampled - batch.draft_tokens
    if spec is None or not batch.draft_tokens or drafters <= 0:
        return ()
    if spec.method == "medusa":
        operators = head_operators(deployment.model, deployment.plan, float(drafters), spec.depth)
        return (_sum(f"drafting: {spec.depth} heads", 1, _priced(deployment, operators, at)),)
    drafter = drafter_of(deployment)
    if drafter is None:
        return ()
    drafts = round(batch.draft_tokens / max(batch.decode_requests, 1))
    more = drafters * (drafts - 1) if spec.one_pass else 0
    first = replace(batch, sampled=drafters + more, draft_tokens=batch.draft_tokens + more)
    found = [_pass("drafting: first pass", 1, drafter, spec, first, at)]
    if not spec.one_pass:
        further = min(spec.draft_tokens, drafts + 1 if spec.method == "parallel" else drafts) - 1
        for width, same in groupby((*spec.widths, 1)[:further]):
            count = len(list(same))
            name = f"drafting: {count} further" if not spec.tree else f"drafting: {width} a request"
            found.append(_pass(name, count, drafter, spec, _further(batch, drafters, width), at))
    return tuple(found)


def _further(batch: Batch, drafters: int, width: int) -> Batch:
    """A pass over one token, or one depth of the tree, of every request that drafts."""
    context = batch.decode_context_tokens + (batch.prefill_context_tokens if drafters > batch.decode_requests else 0)
    one = Batch(decode_requests=drafters, decode_context_tokens=context, sampled=drafters)
    return one.with_drafts(width - 1)


def _pass(name: str, count: int, drafter: DeploymentSpec, spec: SpeculativeSpec, batch: Batch, at: float) -> DraftPass:
    """A pass of the drafter's model; the engine's own times per step are the target's step's."""
    engine = drafter.engine.model_copy(update=dict.fromkeys(_OF_THE_STEP, 0.0))
    drafter = drafter.model_copy(update={"engine": engine})
    window = drafter.model.attended_tokens
    if window and batch.decode_requests:
        inside = min(batch.decode_context_tokens // batch.decode_requests, window)
        batch = replace(batch, decode_window_tokens=batch.decode_requests * inside)
    step = price_step(drafter, batch, at=at)
    parts = [_Part(row.operator.count, row.cost) for row in step.operators]
    joules = step.joules
    if spec.method in ("eagle", "mtp"):
        rows = float(padded_tokens(batch.tokens, engine))
        fused = _priced(drafter, fusion_operators(drafter.model, drafter.plan, rows), at)
        parts, joules = [*parts, *fused], joules + sum(part.joules for part in fused)
    return _sum(name, count, parts, step.launch_wait_s, joules)


@dataclass(frozen=True, slots=True)
class _Part:
    """An operator of a pass: how often, at what cost, and the replica's joules where they are not known as a whole."""

    count: float
    cost: Cost
    joules: float = 0.0


def _priced(deployment: DeploymentSpec, operators: list[Operator], at: float) -> list[_Part]:
    device, links = pricing_of(deployment, at=at)
    energy, found = energy_of(device, links.tensor), []
    for one in operators:
        cost = price(one, device, links)
        drawn = float(capped(np.asarray(joules_of(one, energy)), np.asarray(cost.seconds), energy))
        found.append(_Part(one.count, cost, deployment.plan.ranks_per_stage * one.count * drawn))
    return found


def _sum(name: str, count: int, parts: list[_Part], wait_s: float = 0.0, joules: float | None = None) -> DraftPass:
    """The parts of a pass as one."""
    bounds: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for part in parts:
        bounds[part.cost.bound_by] += part.count * part.cost.seconds  # type: ignore[assignment]
        sources[part.cost.source] += part.count * part.cost.seconds  # type: ignore[assignment]
    return DraftPass(
        name=name,
        count=count,
        seconds=sum(part.count * part.cost.seconds for part in parts) + wait_s,
        limit_s=sum(part.count * part.cost.limit_s for part in parts),
        joules=sum(part.joules for part in parts) if joules is None else joules,
        bound_by=bounds.most_common(1)[0][0],
        source=sources.most_common(1)[0][0],
        flops=sum(part.count * part.cost.flops for part in parts),
        bytes=sum(part.count * part.cost.bytes for part in parts),
    )
