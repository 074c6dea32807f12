"""A model's widths and number formats on one rank of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.specs.fields import Dtype
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

VOCAB_PADDING = 64
"""Vocabularies are padded to a multiple of this before they are sharded."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Widths on one rank.

    Key-value heads are replicated when there are more ranks than heads; latent projections
    (down) are replicated, their heads sharded.

    Attributes:
        ranks: TP ranks.
        q_heads, kv_heads: attention heads on the rank.
        ffn: intermediate width of the dense MLP.
        experts: routed experts held.
        expert_ffn: intermediate width of a routed expert.
        shared_ffn: intermediate width of the shared experts together.
        vocab: rows of the embedding and columns of the LM head.
    """

    ranks: int
    q_heads: int
    kv_heads: int
    ffn: int
    experts: int
    expert_ffn: int
    shared_ffn: int
    vocab: int


def shard(model: ModelSpec, plan: PlanSpec) -> Shard:
    """The model's widths on one of the plan's ranks, rounded up where they do not divide."""
    tp, ep = plan.tensor_parallel, plan.expert_parallel
    moe = model.moe
    padded = _up(model.vocab, VOCAB_PADDING) * VOCAB_PADDING
    return Shard(
        ranks=tp,
        q_heads=_up(model.heads, tp),
        kv_heads=_up(model.kv_heads, tp),
        ffn=_up(model.ffn, tp),
        experts=_up(moe.experts, ep) if moe else 0,
        expert_ffn=_up(moe.expert_ffn, plan.ranks_per_stage // ep) if moe else 0,
        shared_ffn=_up(moe.shared_ffn, tp) if moe else 0,
        vocab=model.vocab if tp == 1 else _up(padded, tp),
    )


def _up(value: int, parts: int) -> int:
    return -(-value // parts)


def stage_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Layers on each pipeline stage, as vLLM deals them out.

    Even shares; a remainder goes to stages from the last but one backwards, since the last also
    holds the LM head and the first the embedding.

    >>> stage_layers(10, 4)
    (2, 3, 3, 2)
    """
    each, extra = divmod(layers, stages)
    held = [each] * stages
    for i in range(extra):
        held[stages - 2 - i] += 1
    return tuple(held)


def matrix_dtypes(model: ModelSpec, plan: PlanSpec, routed: bool) -> tuple[Dtype, Dtype]:
    """(stored, computed) formats of the layers' matrices; embedding, head, router and norms are not among them.

    A model published with experts in one format and the rest in another (`dense_dtype`) keeps
    that under a plan that names the experts' format.
    """
    if not routed and model.dense_dtype is not None and plan.weight_dtype == model.dtype:
        return model.dense_dtype, model.dense_dtype
    return plan.weight_dtype, plan.matmul_dtype


def plain_dtype(plan: PlanSpec) -> Dtype:
    """Format of what is not quantised: router, norms, biases, and most often embedding and head."""
    return plan.weight_dtype if plan.weight_dtype in ("fp32", "tf32", "fp16") else "bf16"


def end_dtypes(plan: PlanSpec) -> tuple[Dtype, Dtype]:
    """(stored, computed) formats of embedding and LM head: 16 bits, but a GGUF file quantises them like the rest."""
    if plan.weight_dtype == "q4_k_m":
        return plan.weight_dtype, plan.matmul_dtype
    return plain_dtype(plan), plain_dtype(plan)
