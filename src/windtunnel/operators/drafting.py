"""Operators that drafters have beside those of a model: what joins hidden states and embedding, and Medusa's heads."""

from __future__ import annotations

from windtunnel.operators.elementwise import elementwise
from windtunnel.operators.expand import sample_operators
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import Number, Operator
from windtunnel.operators.shard import plain_dtype
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec


def fusion_operators(model: ModelSpec, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """The projection of (hidden state, embedding) to the width of the drafting layer, whole on every rank.

    EAGLE (arXiv:2401.15077, section 4.1) and DeepSeek-V3's prediction modules (arXiv:2412.19437, section 2.2).
    """
    plain = plain_dtype(plan)
    return [matmul("fusion", "tokens", 1, tokens, model.hidden, fusion_inputs(model), plain, plain)]


def fusion_inputs(model: ModelSpec) -> int:
    """Rows of that projection's matrix."""
    return 2 * model.hidden


def head_operators(model: ModelSpec, plan: PlanSpec, rows: Number, heads: int) -> list[Operator]:
    """Medusa's heads over `rows` hidden states: a residual block and a projection to the vocabulary each.

    Cai et al., Medusa (arXiv:2401.10774), section 2.1.1.
    """
    plain, h = plain_dtype(plan), model.hidden
    block: list[Operator] = [
        matmul("head block", "sampled", heads, rows, h, h, plain, plain),
        elementwise("head activation", "sampled", heads, rows, read=2 * h, written=h),
    ]
    return block + heads * sample_operators(model, plan, rows)


def head_values(model: ModelSpec, vocab: int) -> int:
    """Weights of one of Medusa's heads with so many columns of the vocabulary."""
    return model.hidden * (model.hidden + vocab)
