"""What a device's measured kernels say about an operator.

Tables are kept by what their kernel does, not by the model it was measured for: a product of the same
shape is the same product in any model. Attention has one table for everything that one launch serves,

    (prompt tokens, their cached context, decoding requests, their mean context) -> seconds

because a launch that holds prompts serves its decoding requests with another tile shape and without
splitting their context: beside a prompt they cost about twice what they cost alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod

import numpy as np
import numpy.typing as npt

from windtunnel.cost.measured.table import Table, table
from windtunnel.operators.attention import DecodeAttention, PrefillAttention
from windtunnel.operators.collective import Collective
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.moe import Experts, visited_experts
from windtunnel.operators.operator import Operator

Floats = npt.NDArray[np.float64]
Key = tuple[str | int | float, ...]

ATTENTION_AXES = ("prefill_tokens", "prefill_context_tokens", "requests", "context_tokens")
"""Axes of an attention table; contexts are those of one prompt and the mean of the decoding requests."""
EXPERT_AXES = ("tokens", "visited_experts")
"""Axes of a table of routed experts: tokens that each visit all their experts on the rank, and experts visited."""


def key_of(operator: Operator) -> Key | None:
    """Which table prices the operator; None for what is never measured."""
    o = operator
    if isinstance(o, Matmul):
        return None if o.per_row else ("gemm", o.n * o.batch, o.k, o.weight_dtype, o.compute_dtype)
    if isinstance(o, DecodeAttention | PrefillAttention):
        return ("attention", o.q_heads, o.kv_heads, o.head_dim, o.kv_bytes)
    if isinstance(o, Experts):
        dtypes = (o.weight_dtype, o.compute_dtype)
        return ("experts", o.experts_per_token, o.hidden, o.ffn, o.matrices, *dtypes)
    if isinstance(o, Elementwise):
        return ("elementwise", o.name, row_bytes(o))
    if isinstance(o, Collective):
        return ("collective", o.kind, o.group)
    return None


def row_bytes(operator: Elementwise) -> int:
    """Bytes that an elementwise operator moves per row."""
    rows = float(np.max(operator.rows))
    return round(float(np.max(operator.moved_bytes)) / rows) if rows else 0


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredKernels:
    """Measured kernels of a device.

    Attributes:
        device: catalogue name of the accelerator, as far as the tables say it.
        title: what the tables are, for answers, such as `LLMServingSim profile, vLLM 0.19.0`.
        tables: by `key_of`.
        included: names of operators whose time is inside that of another one's table.
        notes: what was assumed when the tables were read.
        lane_rates: bytes per second at which attention reads one request's head alone (see `tail`), by table.
        spreads: by operator class (the first part of a key), how far apart the timings of one kernel lay: 90th less
            10th percentile over the time that counts, the median over the class. Empty where nobody recorded it.
    """

    device: str
    title: str
    tables: Mapping[Key, Table]
    included: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    lane_rates: Mapping[Key, float] = field(default_factory=dict)
    spreads: Mapping[str, float] = field(default_factory=dict)
    _lines: dict[Key, Floats] = field(default_factory=dict)
    _besides: dict[Key, list[float]] = field(default_factory=dict)

    def seconds(self, operator: Operator, beside_tokens: float = 0.0) -> Floats | None:
        """Measured seconds of one execution; nan beyond the tables, None when nothing like it was measured.

        Args:
            operator: its quantities are numbers or arrays.
            beside_tokens: prompt tokens in the same step, which slow decode attention.
        """
        if operator.name in self.included:
            return np.zeros(np.shape(operator.moved_bytes))
        key = key_of(operator)
        found = self.tables.get(key) if key is not None else None
        if found is None or key is None:
            return None
        if isinstance(operator, DecodeAttention):
            line = self.decode_beside_prompts(operator) if beside_tokens else None
            return line[0] + line[1] * beside_tokens if line else found.at(0.0, 0.0, *_decode_sizes(operator))
        if isinstance(operator, PrefillAttention):
            return _prefill_seconds(operator, self.prefill_line(key))
        return self._read(operator, found)

    @singledispatchmethod
    def _read(self, operator: Operator, found: Table) -> Floats:
        raise AssertionError(f"no table for {type(operator).__name__}")

    @_read.register
    def _(self, operator: Matmul, found: Table) -> Floats:
        return found.at(operator.m)

    @_read.register
    def _(self, operator: Elementwise, found: Table) -> Floats:
        return found.at(operator.rows)

    @_read.register
    def _(self, operator: Collective, found: Table) -> Floats:
        return found.at(operator.message_bytes)

    @_read.register
    def _(self, operator: Experts, found: Table) -> Floats:
        """A rank's share of the tokens' visits, as so many tokens that visit their experts on this rank alone."""
        o = operator
        share = o.local_experts / o.experts
        tokens = np.asarray(o.tokens, dtype=np.float64)
        visited = np.asarray(visited_experts(tokens, o.experts, o.local_experts, o.experts_per_token))
        return found.at(tokens * share, np.maximum(visited, 1.0))

    def prefill_line(self, key: Key) -> Floats:
        """Prefill attention as (call, per token, per query-key pair, per context token) seconds.

        A step may hold several chunks, of which only sums are known; the line through the chunks
        that were measured alone prices them all, the fixed part once.
        """
        if key not in self._lines:
            self._lines[key] = _fit_prefill(self.tables[key])
        return self._lines[key]

    def at_rate(self, rate: float) -> MeasuredKernels:
        """The same kernels, each running at `rate` times the speed at which it was measured."""
        return self if rate == 1.0 else self._slowed(lambda _key: 1.0 / rate)

    def leaning(self, at: float) -> MeasuredKernels:
        """The same kernels with all times moved to `at` of their 80 % interval, from -1 to 1.

        The timings of a kernel differ by its spread within a second; between the profile and what is predicted the
        machine's state, which all its kernels share, may change by as much, to either side. So the kernels of a class
        take `(1 + spread) ** at` times as long, all classes together. What one kernel's timing caught of a moment's
        disturbance is left out by taking the class's median.
        """
        if not at or not self.spreads:
            return self
        return self._slowed(lambda key: (1.0 + self.spreads.get(str(key[0]), 0.0)) ** at)

    def _slowed(self, by: Callable[[Key], float]) -> MeasuredKernels:
        """The same kernels, those of each table taking so many times as long."""
        tables = {
            key: table(found.axes, {sizes: by(key) * seconds for sizes, seconds in found.points.items()}, found.origin)
            for key, found in self.tables.items()
        }
        lanes = {key: lane_rate / by(key) for key, lane_rate in self.lane_rates.items()}
        return replace(self, tables=tables, lane_rates=lanes, _lines={}, _besides={})

    def decode_beside_prompts(self, operator: DecodeAttention) -> tuple[Floats, Floats] | None:
        """What decode attention adds to a launch that holds prompts: (fixed, per prompt token) seconds.

        A line through the fewest and the most prompt tokens beside which it was measured, on which the
        points between them lie within a few percent. None where it was only measured alone.
        """
        key = key_of(operator)
        found = self.tables.get(key) if key is not None else None
        if found is None or key is None:
            return None
        if key not in self._besides:
            self._besides[key] = sorted({point[0] for point in found.points if point[0] > 0 and point[2] > 0})
        beside = self._besides[key]
        if not beside:
            return None
        requests, mean = _decode_sizes(operator)
        low, high = (
            np.maximum(found.at(tokens, 0.0, requests, mean) - found.at(tokens, 0.0, 0.0, 0.0), 0.0)
            for tokens in (beside[0], beside[-1])
        )
        per_token = (high - low) / (beside[-1] - beside[0]) if len(beside) > 1 else np.zeros_like(low)
        return low - per_token * beside[0], per_token


def _decode_sizes(operator: DecodeAttention) -> tuple[Floats, Floats]:
    """Requests and their mean context."""
    requests = np.asarray(operator.requests, dtype=np.float64)
    context = np.asarray(operator.context_tokens, dtype=np.float64)
    mean = np.divide(context, requests, out=np.zeros(np.broadcast(context, requests).shape), where=requests > 0)
    return requests, mean


def _prefill_seconds(operator: PrefillAttention, line: Floats) -> Floats:
    call, token, pair, context = line
    return np.asarray(call + token * operator.tokens + pair * operator.pairs + context * operator.context_tokens)


def _fit_prefill(found: Table) -> Floats:
    """Least squares with no negative part; errors weigh by the root of the time, for large and small chunks alike."""
    from scipy.optimize import nnls

    rows = [(sizes, seconds) for sizes, seconds in found.points.items() if sizes[0] > 0 and sizes[2] == 0]
    tokens = np.array([sizes[0] for sizes, _ in rows])
    start = np.array([sizes[1] for sizes, _ in rows])
    seconds = np.array([seconds for _, seconds in rows])
    pairs = tokens * start + tokens * (tokens + 1.0) / 2.0
    columns = np.stack([np.ones_like(tokens), tokens, pairs, start + tokens], axis=1)
    weight = 1.0 / np.sqrt(seconds)
    scale = columns.max(axis=0)
    found_line, _ = nnls(columns / scale * weight[:, None], seconds * weight)
    return np.asarray(found_line / scale)
