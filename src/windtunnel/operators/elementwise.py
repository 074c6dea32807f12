"""Operators bound by the bytes they touch: norms, rotary embedding, activations, lookups, sampling."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator, Part
from windtunnel.specs.fields import DTYPE_BYTES, Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Operator):
    """Fused kernels over `rows` rows.

    Attributes:
        rows: rows, tokens as a rule.
        kernels: kernels that the fusion leaves.
        logits: scores that sampling chooses from, which some engines sort first.
    """

    rows: Number
    kernels: int = 1
    logits: Number = 0.0


def elementwise(
    name: str,
    part: Part,
    count: float,
    rows: Number,
    *,
    read: float,
    written: float,
    kernels: int = 1,
    logits: Number = 0.0,
) -> Elementwise:
    """Values read and written per row, in the activations' format; no weight worth counting."""
    return Elementwise(
        name=name,
        part=part,
        count=count,
        read_bytes=read * ACTIVATION_BYTES * rows,
        write_bytes=written * ACTIVATION_BYTES * rows,
        rows=rows,
        kernels=kernels,
        logits=logits,
    )


def quantize(count: int, tokens: Number, width: int, computed: Dtype) -> list[Operator]:
    """Attention's output is quantised by a kernel of its own; elsewhere that is fused with a norm or activation."""
    narrow = DTYPE_BYTES[computed]
    if narrow >= ACTIVATION_BYTES:
        return []
    written = width * narrow / ACTIVATION_BYTES
    return [elementwise("quantise", "tokens", count, tokens, read=width, written=written)]
