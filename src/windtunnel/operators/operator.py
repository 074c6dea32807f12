"""The operator: one piece of a forward pass on one rank, with what it computes, moves and sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Number = float | Floats
"""A quantity of one batch, or of many batches at once as an array."""

Part = Literal["tokens", "sampled", "decode", "decode_window", "prefill", "hop"]
"""Which of the batch's sums an operator depends on: the parts of a step surface."""

ACTIVATION_BYTES = 2.0
"""Activations travel between operators in a 16-bit format, whatever the weights are stored in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator on one rank. Quantities are for one execution; the pass executes it `count` times.

    Attributes:
        name: what it is, such as `qkv` or `mlp down`.
        part: the sums of the batch that it depends on.
        count: executions in a forward pass of the whole model (its layers).
        flops: floating-point operations (a multiply-add is two).
        stored_bytes: bytes that can only come from device memory: weights and cached KV.
        read_bytes: all bytes read, activations included.
        write_bytes: bytes written.
        message_bytes: size of the message that each rank contributes, 0 when nothing is sent.
        group: ranks that take part; 1 when nothing is sent.
    """

    name: str
    part: Part
    count: float = 1.0
    flops: Number = 0.0
    stored_bytes: Number = 0.0
    read_bytes: Number = 0.0
    write_bytes: Number = 0.0
    message_bytes: Number = 0.0
    group: int = 1

    @property
    def moved_bytes(self) -> Number:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes
