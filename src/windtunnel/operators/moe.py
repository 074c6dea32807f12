"""Routed experts: a grouped product over the experts that a rank holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator
from windtunnel.specs.fields import DTYPE_BYTES, Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts(Operator):
    """The routed experts of one layer on one rank.

    Attributes:
        tokens: tokens of the step (every rank of the group sees all of them).
        experts: routed experts of the layer.
        local_experts: those that this rank holds (experts / EP).
        experts_per_token: routed experts each token visits.
        hidden: model width.
        ffn: intermediate width of an expert on this rank.
        matrices: matrices per expert, 3 when gated, else 2.
    """

    tokens: Number
    experts: int
    local_experts: int
    experts_per_token: int
    hidden: int
    ffn: int
    matrices: int
    weight_dtype: Dtype
    compute_dtype: Dtype


def visited_experts(tokens: Number, experts: int, local_experts: int, experts_per_token: int) -> Number:
    """Expected number of a rank's experts that at least one token visits, routing being even.

    local * (1 - (1 - k / E) ** tokens): the fewest weights a step must read.
    """
    missed = np.power(1.0 - experts_per_token / experts, tokens)
    return local_experts * (1.0 - missed)


def experts(
    name: str,
    count: float,
    tokens: Number,
    *,
    experts: int,
    local_experts: int,
    experts_per_token: int,
    hidden: int,
    ffn: int,
    matrices: int,
    weight_dtype: Dtype,
    compute_dtype: Dtype,
) -> Experts:
    """A rank's mean share of the layer's routed work: tokens * k * local / E rows through each matrix."""
    rows = tokens * (experts_per_token * local_experts / experts)
    weights = visited_experts(tokens, experts, local_experts, experts_per_token) * (
        matrices * hidden * ffn * DTYPE_BYTES[weight_dtype]
    )
    return Experts(
        name=name,
        part="tokens",
        count=count,
        flops=2.0 * matrices * hidden * ffn * rows,
        stored_bytes=weights,
        read_bytes=weights + (hidden + ffn) * ACTIVATION_BYTES * rows,
        write_bytes=((matrices - 1) * ffn + hidden) * ACTIVATION_BYTES * rows,
        tokens=tokens,
        experts=experts,
        local_experts=local_experts,
        experts_per_token=experts_per_token,
        hidden=hidden,
        ffn=ffn,
        matrices=matrices,
        weight_dtype=weight_dtype,
        compute_dtype=compute_dtype,
    )
