"""Operators bound by the bytes they touch: norms, rotary embedding, activations, lookups, sampling."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator, Part
from windtunnel.specs.engine import Fusion
from windtunnel.specs.fields import DTYPE_BYTES, Dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Operator):
    """Fused kernels over `rows` rows.

    Attributes:
        rows: rows, tokens as a rule.
        kernels: kernels that the usual fusion leaves.
        within: what else does the work where an engine fuses further, if anything.
        left: kernels that then remain.
        logits: scores that sampling chooses from, which some engines sort first.
    """

    rows: Number
    kernels: int = 1
    within: Fusion | None = None
    left: int = 0
    logits: Number = 0.0

    def launched(self, fused: Collection[str]) -> int:
        """Kernels of an engine that fuses so much."""
        return self.left if self.within in fused else self.kernels


def elementwise(
    name: str,
    part: Part,
    count: float,
    rows: Number,
    *,
    read: float,
    written: float,
    kernels: int = 1,
    within: Fusion | None = None,
    left: int = 0,
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
        within=within,
        left=left,
        logits=logits,
    )


def quantize(count: int, tokens: Number, width: int, computed: Dtype, within: Fusion | None = None) -> list[Operator]:
    """Attention's output is quantised by a kernel of its own; elsewhere that is fused with a norm or activation."""
    narrow = DTYPE_BYTES[computed]
    if narrow >= ACTIVATION_BYTES:
        return []
    written = width * narrow / ACTIVATION_BYTES
    return [elementwise("quantise", "tokens", count, tokens, read=width, written=written, within=within)]
