"""The step surface: a deployment's step cost as arrays that the hot loop evaluates in nanoseconds.

A step is described by the aggregates of its batch. On each pipeline stage s it takes

    seconds[s] = stage_share[s] * body + (head if s is last) + hop_s[tokens] (if s is not first)
    body = token_s[tokens] + decode_s(decode_requests, decode_context) + prefill_s(...)
    head = sample_s[sampled]

and `host_s + host_request_s * scheduled_requests` is added once per step, before the first
stage. The decode term is a table over (requests, mean context), linear in between; the
prefill term is linear in its aggregates. Energy has the same form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONTEXT_GRID_LOG2_FIRST = 4
"""The context grid starts at 2**4 tokens; entry 0 stands for a context of 0."""
CONTEXT_GRID_PER_OCTAVE = 8
"""Columns of the decode table per doubling of the mean context."""


def _nothing() -> Floats:
    return np.zeros((0, 0))


@dataclass(frozen=True, slots=True)
class DraftSurface:
    """What drafting adds to a step, over the same aggregates.

    A step in which `drafters` requests sample, and which drafts at all, takes

        step_s + (token_s[tokens] + attention) + head_s[rows] + (passes - 1) * (further_s[drafters] + attention)

    more; or, `beside` the target, as long as the longer of the two. Rows of the first head are the drafters, with
    `one_pass` their drafted tokens.

    Attributes:
        lengths: tokens drafted per request, by the number of requests in a step (0, 1, 2, ...; one row where it does
            not matter) and by the octave of their mean context (below 32 tokens, below 64, ...; or one column).
        depth: most drafted tokens that a round can accept.
        passes: most serial passes of the drafter; 1 for heads, 0 when no model drafts.
        one_pass: whether all tokens come from one pass.
        beside: whether drafting goes on while the target works, on accelerators of its own.
        step_s: host time that nothing hides, seconds.
        token_s, token_j: the first pass over the step's tokens, per token count; zeros for heads.
        head_s, head_j: what follows it, per row.
        further_s, further_j: one further pass and its head, per drafting request.
        decode_s, further_decode_s: decode attention in the first and in a further pass, as `StepSurface.decode_s`.
        decode_j: (per decode request, per context token), shape (2,).
        prefill_s, prefill_j: as those of `StepSurface`.
        static_w: watts drawn at all times by accelerators of the drafter's own, per replica.
    """

    lengths: npt.NDArray[np.int64]
    depth: int
    passes: int
    one_pass: bool
    beside: bool
    step_s: float
    token_s: Floats
    token_j: Floats
    head_s: Floats
    head_j: Floats
    further_s: Floats
    further_j: Floats
    decode_s: Floats
    further_decode_s: Floats
    decode_j: Floats
    prefill_s: Floats
    prefill_j: Floats
    static_w: float = 0.0


@dataclass(frozen=True, slots=True)
class AdapterSurface:
    """What LoRA adapters add to a step in which `tokens` tokens use one of `adapters` different ones.

        token_s[tokens] + (adapters - 1) * further_s

    and load_s for each that is not on the device yet.

    Attributes:
        token_s, token_j: the adapters' products, the weights of one adapter read, per token count.
        further_s, further_j: reading those of one more.
        load_s: copying one from the host to the device, seconds.
    """

    token_s: Floats
    token_j: Floats
    further_s: float
    further_j: float
    load_s: float


@dataclass(frozen=True, slots=True)
class StepSurface:
    """Step cost over the batch's aggregates.

    Attributes:
        linear: (base, per_token, per_context_token) seconds. When not None, the step takes
            base + per_token * tokens + per_context_token * context, where context is the sum
            over scheduled requests of computed tokens after the step, and nothing else counts
            (the scheduler oracle's clock; one stage).
        token_s: whole-model time of everything that depends on the step's total tokens
            (projections, MLP, experts, norms, tensor-parallel collectives), per token count,
            shape (max_tokens + 1,); token_s[0] = 0.
        sample_s: LM head and sampling against sampled rows, shape (max_requests + 1,), longer with drafts.
        decode_s: decode attention, all layers, shape (max_requests + 1, columns): row is the
            number of decoding requests, column the mean context per request on the grid of
            `context_grid()`. Linear interpolation in the context.
        decode_window_s: the same for sliding-window layers over mean windowed context;
            shape (0, 0) when the model has none.
        window_tokens: the sliding window W, 0 when none.
        decode_mixed_s, decode_mixed_token_s: what decoding requests add to a step that holds prompts, as
            decode_s, and that per prompt token of the step; shape (0, 0) where decode_s says it, as it
            does unless both were measured together.
        prefill_s: (per step with any prefill, per prefill token, per query-key pair, per
            windowed pair, per context token read, per prompt, per key of the prompts' mean
            context, per key that a query meets on average in a window) seconds, shape (8,).
        stage_share: fraction of the body on each pipeline stage, shape (pp,), sums to 1.
        hop_s: activation transfer between stages per token count, shape (max_tokens + 1,) or
            (0,) when pp = 1.
        host_s: engine overhead per step, seconds.
        host_request_s: engine overhead per scheduled request, seconds.
        token_j, sample_j: dynamic joules of the whole replica (all its devices), same shapes.
        decode_j: (per decode request, per context token, per windowed context token), shape (3,).
        prefill_j: as prefill_s, shape (8,).
        static_w: watts drawn by the replica's devices at all times.
        interval: relative 80 % half-width (low, high) of the step time, nan until known.
        drafting: what drafts cost, with speculative decoding.
        adapters: what LoRA adapters cost.
        least_depth: least share of the layers that a decoded token may run, below 1 with early exit.
    """

    token_s: Floats
    sample_s: Floats
    decode_s: Floats
    decode_window_s: Floats
    window_tokens: int
    prefill_s: Floats
    stage_share: Floats
    hop_s: Floats
    host_s: float
    host_request_s: float
    token_j: Floats
    sample_j: Floats
    decode_j: Floats
    prefill_j: Floats
    static_w: float
    linear: tuple[float, float, float] | None = None
    decode_mixed_s: Floats = field(default_factory=_nothing)
    decode_mixed_token_s: Floats = field(default_factory=_nothing)
    interval: tuple[float, float] = (float("nan"), float("nan"))
    drafting: DraftSurface | None = None
    adapters: AdapterSurface | None = None
    least_depth: float = 1.0

    @property
    def max_tokens(self) -> int:
        """Most tokens a step may hold."""
        return len(self.token_s) - 1

    @property
    def max_requests(self) -> int:
        """Most requests a step may hold."""
        return min(len(self.sample_s), len(self.decode_s) or len(self.sample_s)) - 1


def context_grid(max_context_tokens: int) -> Floats:
    """Mean contexts of the decode table's columns: 0, then 8 points per octave from 16 tokens.

    Column c >= 1 is 2**o * (1 + j / 8) with o = 4 + (c - 1) // 8, j = (c - 1) % 8, so that a
    column is found with integer arithmetic. The last column is at or above the maximum.
    """
    octaves = max(1, int(np.ceil(np.log2(max(max_context_tokens, 32)))) - CONTEXT_GRID_LOG2_FIRST + 1)
    column = np.arange(octaves * CONTEXT_GRID_PER_OCTAVE + 1)
    octave, part = np.divmod(column, CONTEXT_GRID_PER_OCTAVE)
    points = 2.0 ** (CONTEXT_GRID_LOG2_FIRST + octave) * (1.0 + part / CONTEXT_GRID_PER_OCTAVE)
    return np.concatenate([[0.0], points])


def linear_surface(base_s: float, per_token_s: float = 0.0, per_context_token_s: float = 0.0) -> StepSurface:
    """A surface whose step takes base + per_token * tokens + per_context_token * context seconds."""
    none = np.zeros(0)
    return StepSurface(
        token_s=none,
        sample_s=none,
        decode_s=np.zeros((0, 0)),
        decode_window_s=np.zeros((0, 0)),
        window_tokens=0,
        prefill_s=np.zeros(8),
        stage_share=np.ones(1),
        hop_s=none,
        host_s=0.0,
        host_request_s=0.0,
        token_j=none,
        sample_j=none,
        decode_j=np.zeros(3),
        prefill_j=np.zeros(8),
        static_w=0.0,
        linear=(base_s, per_token_s, per_context_token_s),
    )
