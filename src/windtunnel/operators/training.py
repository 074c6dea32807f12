"""Forward and backward pass of a training microbatch as operators on one rank.

A layer is written down in three phases, forward, input gradients and weight gradients, since
zero-bubble schedules run them apart. Each phase lists what runs on the compute stream and the
collectives beside it: exposed ones wait, paired ones run while a product of the same phase does.
Degrees may be arrays, one entry per layout, so that a whole space of layouts is expanded at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from windtunnel.operators.collective import Collective, Kind
from windtunnel.operators.elementwise import Elementwise, elementwise
from windtunnel.operators.matmul import Matmul, matmul
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator
from windtunnel.specs.fields import Dtype

Axis = Literal["tensor", "context", "expert"]
"""Which parallel group a collective inside a layer runs over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGradient(Matmul):
    """Gradient of a (k, n) weight: activations (k, rows) times output gradients (rows, n).

    `m`, `n` and `k` are those of the kernel: n columns of the weight, its k rows, and the tokens as
    reduction depth. `accumulator_bytes` is read and written per value of the gradient buffer.
    """

    accumulator_bytes: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Operator):
    """Causal attention of a microbatch on one rank, forward or backward.

    Attributes:
        tokens: query tokens of the rank.
        pairs: query-key pairs that it computes.
        context_tokens: keys that it reads.
        q_heads, kv_heads: heads on the rank.
        backward: whether these are the gradients (five products for two, FlashAttention, section 3.1).
        flash: scores stay on the chip; otherwise they are written and read.
        dtype: arithmetic of the products.
        version: generation of FlashAttention, 0 for the device's newest.
        slow_sinks: attention sinks outside the device's newest kernel.
    """

    tokens: Number
    pairs: Number
    context_tokens: Number
    q_heads: Number
    kv_heads: Number
    head_dim: int
    v_head_dim: int
    backward: bool = False
    flash: bool = True
    dtype: Dtype = "bf16"
    version: int = 0
    slow_sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCollective(Collective):
    """A collective inside a layer over one of the plan's groups.

    Attributes:
        axis: which group.
        ranks: its size, which may be an array.
        dedupe: for all-to-all between experts: copies of a token sent to a node, over those sent to
            ranks (1 when every expert's copy travels on its own).
        fused: whether an all-to-all is a dispatch kernel of its own.
    """

    axis: Axis
    ranks: Number
    dedupe: Number = 1.0
    fused: bool = False


@dataclass(slots=True)
class Phase:
    """One phase of a layer on one rank.

    Attributes:
        compute: operators of the compute stream, in order.
        exposed: collectives that the compute stream waits for.
        behind: collectives that run while an operator of `compute` runs: (collective, its operator).
        pieced: collectives cut into pieces and pipelined with their product: (collective, operator).
        by_expert: products whose operands the host converts to a narrow format expert by expert.
    """

    compute: list[Operator] = field(default_factory=list)
    exposed: list[GroupCollective] = field(default_factory=list)
    behind: list[tuple[GroupCollective, Operator]] = field(default_factory=list)
    pieced: list[tuple[GroupCollective, Operator]] = field(default_factory=list)
    by_expert: Number = 0.0

    def __add__(self, other: Phase) -> Phase:
        return Phase(
            self.compute + other.compute,
            self.exposed + other.exposed,
            self.behind + other.behind,
            self.pieced + other.pieced,
            self.by_expert + other.by_expert,
        )

    @property
    def operators(self) -> list[Operator]:
        """All operators, collectives included."""
        beside = [pair[0] for pair in self.behind + self.pieced]
        return [*self.compute, *self.exposed, *beside]


@dataclass(slots=True)
class LayerPhases:
    """A layer's phases; `recompute` is what the backward pass computes again beforehand."""

    forward: Phase = field(default_factory=Phase)
    input_gradient: Phase = field(default_factory=Phase)
    weight_gradient: Phase = field(default_factory=Phase)
    recompute: Phase = field(default_factory=Phase)

    def __add__(self, other: LayerPhases) -> LayerPhases:
        return LayerPhases(
            self.forward + other.forward,
            self.input_gradient + other.input_gradient,
            self.weight_gradient + other.weight_gradient,
            self.recompute + other.recompute,
        )


def group_collective(name: str, kind: Kind, message_bytes: Number, axis: Axis, ranks: Number) -> GroupCollective:
    """A collective over a tensor of `message_bytes` among the `ranks` of an axis."""
    return GroupCollective(
        name=name,
        part="tokens",
        read_bytes=message_bytes,
        write_bytes=message_bytes,
        message_bytes=message_bytes,
        group=2,
        kind=kind,
        axis=axis,
        ranks=ranks,
    )


def linear(name: str, rows: Number, n: Number, k: Number, dtype: Dtype, *, groups: Number = 1) -> Matmul:
    """The forward product of a linear layer, `groups` of them in one kernel (experts)."""
    return matmul(name, "tokens", 1.0, rows, n, k, dtype, dtype, batch=groups)  # type: ignore[arg-type]


def gradients(
    product: Matmul, accumulator_bytes: float, *, input_needed: bool = True
) -> tuple[list[Operator], list[Operator]]:
    """(input gradient, weight gradient) products of a forward product."""
    o = product
    back = linear(f"{o.name}, input gradient", o.m, o.k, o.n, o.compute_dtype, groups=o.batch)
    flops = 2.0 * o.batch * o.n * o.k * o.m
    values = o.batch * o.n * o.k
    moved_bytes = o.batch * (o.n + o.k) * o.m * ACTIVATION_BYTES
    weight = WeightGradient(
        name=f"{o.name}, weight gradient",
        part="tokens",
        flops=flops,
        read_bytes=moved_bytes + values * accumulator_bytes,
        write_bytes=values * accumulator_bytes,
        m=o.n,
        n=o.k,
        k=o.m,  # type: ignore[arg-type]
        batch=o.batch,
        weight_dtype=o.compute_dtype,
        compute_dtype=o.compute_dtype,
        accumulator_bytes=accumulator_bytes,
    )
    return ([back] if input_needed else []), [weight]


def streamed(name: str, rows: Number, read: Number, written: Number, kernels: int = 1) -> Elementwise:
    """An elementwise pass over rows; values read and written per row in 16 bits."""
    return elementwise(name, "tokens", 1.0, rows, read=read, written=written, kernels=kernels)  # type: ignore[arg-type]


def score_passes(*, backward: bool, fused: bool = True, dropout: bool = False) -> float:
    """Times that attention's scores are read or written, in 16-bit values, when they go through memory.

    Fused scaling, masking and softmax: forward the product writes, softmax reads and writes, the product with
    the values reads; backward two reads and a write of softmax's gradient stand between two products that
    write and read twice. As separate calls with softmax in fp32 (two values each): scaling and masking
    read and write, scores are widened, normalised and narrowed again, forward and backward. Dropout
    reads, writes and moves a mask of bytes.
    """
    mask = 2.5 if dropout else 0.0
    if fused:
        return (6.0 if backward else 4.0) + mask
    return (20.0 if backward else 12.0) + mask


def attention(
    tokens: Number,
    pairs: Number,
    context_tokens: Number,
    *,
    q_heads: Number,
    kv_heads: Number,
    head_dim: int,
    v_head_dim: int,
    backward: bool,
    flash: bool,
    dtype: Dtype = "bf16",
    version: int = 0,
    slow_sinks: bool = False,
    passes: float | None = None,
) -> Attention:
    """Attention with its exact work: 2 * heads * (head_dim + v_head_dim) FLOPs per pair, forward.

    The backward pass multiplies twice per forward product and computes the scores again when they
    were not kept: 2.5 times the work with FlashAttention, twice without. Unfused attention computes
    the whole square and moves the scores `passes` times (see `score_passes`).
    """
    pairs_done = pairs if flash else 2.0 * np.asarray(pairs, dtype=np.float64)
    work = 2.0 * q_heads * (head_dim + v_head_dim) * pairs_done
    times = (2.5 if flash else 2.0) if backward else 1.0
    qo = tokens * q_heads * (head_dim + v_head_dim) * ACTIVATION_BYTES
    kv = context_tokens * kv_heads * (head_dim + v_head_dim) * ACTIVATION_BYTES
    moved = score_passes(backward=backward) if passes is None else passes
    scores = 0.0 if flash else moved * q_heads * pairs_done * ACTIVATION_BYTES
    return Attention(
        name="attention, gradient" if backward else "attention",
        part="tokens",
        flops=times * work,
        read_bytes=(qo + kv) * (2.0 if backward else 1.0) + scores / 2.0,
        write_bytes=qo / 2.0 + (kv if backward else 0.0) + scores / 2.0,
        tokens=tokens,
        pairs=pairs_done,
        context_tokens=context_tokens,
        q_heads=q_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        backward=backward,
        flash=flash,
        dtype=dtype,
        version=version,
        slow_sinks=slow_sinks,
    )
