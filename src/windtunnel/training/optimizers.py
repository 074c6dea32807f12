"""Optimisers: the values each keeps per weight matrix, and the room its step takes.

A matrix has `rows` x `cols` values; m is its smaller side and n its larger one. States are kept in
fp32 beside an fp32 copy of the weights, and otherwise in the weights' own format, as framework
optimisers allocate them like the parameter. What comes from papers is in `catalogue/optimizers.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import yaml
from pydantic import Field

from windtunnel.operators.operator import Number
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.training import Optimizer

MatrixKind = Literal["linear", "embedding", "head", "vector"]
"""What a weight is to an optimiser: most treat the layers' matrices differently from the rest."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Weights of one shape on a rank; every number may be an array over layouts.

    Attributes:
        name: what it is.
        kind: linear (of a layer), embedding, head or vector (norms, biases).
        rows, cols: its shape.
        count: how many of them.
        routed: whether it belongs to routed experts, which other ranks share the states of.
    """

    name: str
    kind: MatrixKind
    rows: Number
    cols: Number
    count: Number = 1.0
    routed: bool = False

    @property
    def each(self) -> Number:
        """Values of one of them."""
        return self.rows * self.cols

    @property
    def values(self) -> Number:
        """Values of all of them."""
        return self.rows * self.cols * self.count


class OptimizerFacts(Spec):
    """One optimiser of `catalogue/optimizers.yaml`."""

    title: str
    state: str = Field(description="what it keeps, in words")
    block: int = Field(0, ge=0, description="values that share a quantisation scale")
    low_rank: float = Field(0.0, ge=0, le=1, description="rank (or share of full states) over the smaller side")
    rank: int = Field(0, ge=0, description="rank, where the paper fixes it")
    full_state: tuple[MatrixKind, ...] = Field((), description="parts that keep AdamW's states")
    source: Source


@lru_cache(maxsize=1)
def optimizer_facts() -> dict[str, OptimizerFacts]:
    """The catalogue's optimisers by name."""
    data = yaml.safe_load(catalogue_folder("optimizers.yaml").read_text(encoding="utf-8"))
    return {name: build(OptimizerFacts, entry, "catalogue/optimizers.yaml") for name, entry in data.items()}


def state_bytes(optimizer: Optimizer, matrix: Matrix, *, rank: int = 0, value_bytes: float = 4.0) -> Number:
    """Bytes of an optimiser's states for the weights of one shape, master copies not included.

    Args:
        optimizer: which one.
        matrix: the weights.
        rank: rank of low-rank methods; 0 takes the paper's own.
        value_bytes: bytes of a state value that is not quantised.

    >>> state_bytes("adamw", Matrix("w", "linear", 10, 20))
    1600.0
    """
    facts = optimizer_facts()[optimizer]
    if matrix.kind in facts.full_state:
        # 8-bit optimisers keep what they leave alone in fp32 whatever the weights are (section 2.3).
        return 2.0 * matrix.values * (4.0 if facts.block else value_bytes)
    if facts.block:
        return matrix.values * 2.0 * (1.0 + 4.0 / facts.block)
    return _state_values(optimizer, matrix, facts, rank) * matrix.count * value_bytes


def rank_of(optimizer: Optimizer, matrix: Matrix, rank: int = 0) -> Number:
    """Rank that a low-rank optimiser uses for a matrix: as given or the paper's, at most the smaller side."""
    facts = optimizer_facts()[optimizer]
    short = np.minimum(matrix.rows, matrix.cols)
    chosen = rank or facts.rank
    if facts.rank == 1:
        chosen = 1
    return np.minimum(chosen, short) if chosen else facts.low_rank * short


def _state_values(optimizer: Optimizer, matrix: Matrix, facts: OptimizerFacts, rank: int) -> Number:
    """State values of one matrix."""
    short, long = np.minimum(matrix.rows, matrix.cols), np.maximum(matrix.rows, matrix.cols)
    each = matrix.each
    if optimizer == "adamw":
        return 2.0 * each
    if optimizer == "sgd":
        return 0.0 * each
    if optimizer in ("lion", "sgd-momentum", "muon"):
        return each
    if optimizer == "adafactor":
        return each if matrix.kind == "vector" else matrix.rows + matrix.cols
    if optimizer == "frugal":
        return 2.0 * each * (np.minimum(rank / short, 1.0) if rank else facts.low_rank)
    r = rank_of(optimizer, matrix, rank)
    if optimizer == "galore":
        return short * r + 2.0 * long * r
    if optimizer == "cosmos":
        return each + long * r + short * r + r * r
    return 2.0 * long * r + 2.0


def workspace_bytes(optimizer: Optimizer, matrix: Matrix, *, rank: int = 0) -> Number:
    """Bytes that one matrix's update takes while it is made.

    Element-wise updates run in fused kernels without any. Low-rank methods hold the fp32 update and
    the projected gradient; Muon and COSMOS orthogonalise in 16 bits: the matrix, its next iterate and
    two Gram matrices (Newton-Schulz); Adafactor holds the fp32 update.
    """
    short, long = np.minimum(matrix.rows, matrix.cols), np.maximum(matrix.rows, matrix.cols)
    facts = optimizer_facts()[optimizer]
    if matrix.kind == "vector" or matrix.kind in facts.full_state:
        return 0.0 * matrix.each
    if optimizer == "adafactor":
        return 4.0 * matrix.each
    if optimizer in ("apollo", "apollo-mini", "galore"):
        return 4.0 * (matrix.each + rank_of(optimizer, matrix, rank) * (long + short))
    if optimizer in ("muon", "cosmos"):
        return 2.0 * (2.0 * matrix.each + 2.0 * short * short)
    return 0.0 * matrix.each
