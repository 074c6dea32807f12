"""What is to be measured for a model: every kernel of a rank's forward pass over a grid of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from windtunnel.cost.measured.kernels import Key, key_of
from windtunnel.operators.attention import DecodeAttention, PrefillAttention
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.expand import expand
from windtunnel.operators.matmul import Matmul
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

HEAD = ("lm head", "sampling")
"""Operators over the requests of a step, not its tokens."""


@dataclass(frozen=True, slots=True)
class Point:
    """One kernel at one size.

    Attributes:
        key: what is measured, as `windtunnel.cost.measured` keys its tables.
        sizes: rows of a product or an elementwise kernel; for attention (prompt tokens, their cached context,
            decoding requests, their context).
        once: whether a step runs it once, rather than in every layer.
    """

    key: Key
    sizes: tuple[int, ...]
    once: bool = field(default=False, compare=False)

    @property
    def name(self) -> str:
        """For journals and messages."""
        return " ".join(map(str, (*self.key, "at", *self.sizes)))

    @property
    def rows(self) -> int:
        """Tokens of the step that runs it: rows of products, prompt tokens or decoding requests of attention."""
        return (self.sizes[0] or self.sizes[2]) if self.key[0] == "attention" else self.sizes[0]


def points_of(model: ModelSpec, plan: PlanSpec, max_tokens: int, max_requests: int, max_context: int) -> list[Point]:
    """Every point of a model's kernels.

    Args:
        model, plan: whose rank is measured.
        max_tokens: most tokens of a step.
        max_requests: most requests of a step.
        max_context: longest context of a request, tokens.
    """
    operators = [
        *expand(model, plan, decode_batch(1, 1, model.window_tokens)),
        *expand(model, plan, prefill_batch([(0, 1)], model.window_tokens)),
    ]
    found: dict[Point, None] = {}
    for operator in operators:
        key = key_of(operator)
        if key is None:
            continue
        if isinstance(operator, Matmul | Elementwise):
            head = operator.name in HEAD
            for rows in doubling(max_requests if head else max_tokens):
                found[Point(key, (rows,), head or operator.name == "embedding")] = None
        elif isinstance(operator, PrefillAttention):
            for tokens in doubling(min(max_tokens, max_context), 16):
                for cached in (0, *doubling(max_context - tokens, 256, 4)) if tokens < max_context else (0,):
                    found[Point(key, (tokens, cached, 0, 0))] = None
        elif isinstance(operator, DecodeAttention):
            for requests in doubling(max_requests):
                for context in doubling(max_context, 16, 4):
                    found[Point(key, (0, 0, requests, context))] = None
    return list(found)


def doubling(most: int, first: int = 1, factor: int = 2) -> Iterator[int]:
    """first, first * factor, ... and `most` itself.

    >>> list(doubling(10))
    [1, 2, 4, 8, 10]
    """
    size = first
    while size < most:
        yield size
        size *= factor
    yield most
