"""Sparse attention over latents: an index scores all tokens, attention reads the best of them (DeepSeek-V3.2, GLM-5).

Kernels are counted as in SGLang 0.5.9 and its builds of March 2026 (`nsa_indexer.py`, `nsa_backend.py`); vLLM 0.18
has the same products and scores, and fuses more of what is elementwise. The index is not sharded by heads: every
tensor-parallel rank runs it whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.operators.elementwise import elementwise
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator, Part
from windtunnel.operators.shard import matrix_dtypes
from windtunnel.specs.model import ModelSpec, SparseIndex
from windtunnel.specs.plan import PlanSpec

SCORE_BYTES = 4.0
"""Bytes of a score: the index's logits are kept in 32 bits between the two kernels."""
SCORE_READS = 2.0
"""Times that the selection reads a score: once for a histogram, once to pick (SGLang's `fast_topk_transform`)."""
CHOICE_BYTES = 4.0
"""Bytes of the position of a chosen token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexScores(Operator):
    """Scores of cached tokens: products of 8-bit queries and keys, clamped, weighted and summed over the heads.

    Attributes:
        pairs: scores, queries times the tokens that they see.
    """

    pairs: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChoice(Operator):
    """The best tokens of every query; a processor works through a query's scores alone.

    Attributes:
        rows: queries.
        pairs: scores, all queries together.
        even: whether there are queries enough for every processor, so that cost is a line in the scores.
    """

    rows: Number
    pairs: Number
    even: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsePrefillAttention(Operator):
    """Tokens of prompts, each against latents that it has chosen: one query of all heads per token.

    Attributes:
        tokens: queries.
        pairs: tokens times the latents that they attend to.
        topk: most latents that a token attends to.
    """

    tokens: Number
    pairs: Number
    topk: int
    heads: int
    latent_dim: int
    rope_dim: int
    kv_bytes: float


def index_projections(model: ModelSpec, index: SparseIndex, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """Queries, key and head weights of the tokens, normalised, rotated, in 8 bits, and the key written to its cache.

    Queries come from the compressed query, key and weights from the hidden state. Of queries and key a share is turned
    by position and copied back, both are rotated (Hadamard) and quantised, each by a kernel of its own; weights are
    scaled by the number of heads, the queries' scales and the width.
    """
    assert model.latent is not None
    layers, h, rank = model.layers, model.hidden, model.latent.q_lora_rank
    stored, computed = matrix_dtypes(model, plan, routed=False)
    width, key = index.heads * index.head_dim, index.head_dim
    rotary = (index.heads + 1) * model.latent.qk_rope_head_dim
    half = 1.0 / ACTIVATION_BYTES  # values of 8 bits, in 16-bit ones
    return [
        matmul("index q", "tokens", layers, tokens, width, rank, stored, computed),
        # One product in vLLM; SGLang runs that of the weights beside all others, on a second stream.
        matmul("index key and weights", "tokens", layers, tokens, key + index.heads, h, stored, computed),
        elementwise("index key norm", "tokens", layers, tokens, read=key, written=key),
        elementwise("index rope", "tokens", layers, tokens, read=2 * rotary, written=2 * rotary, kernels=3),
        elementwise("index rotation", "tokens", layers, tokens, read=width + key, written=width + key, kernels=2),
        elementwise(
            "index quantise", "tokens", layers, tokens, read=width + key, written=half * (width + key), kernels=2
        ),
        elementwise(
            "index weights scale", "tokens", layers, tokens, read=5 * index.heads, written=6 * index.heads, kernels=2
        ),
        elementwise("index key write", "tokens", layers, tokens, read=half * key, written=half * index.key_bytes),
    ]


def index_scores(
    index: SparseIndex, part: Part, layers: int, rows: Number, pairs: Number, cached_tokens: Number
) -> list[Operator]:
    """Scores of all pairs and the choice among them.

    Args:
        index: its shape.
        part: of the step.
        layers: executions.
        rows: queries.
        pairs: queries times the tokens that they see.
        cached_tokens: tokens whose keys are read.
    """
    keys = index.key_bytes * cached_tokens
    scored = SCORE_BYTES * pairs
    return [
        IndexScores(
            name="index scores",
            part=part,
            count=layers,
            flops=2.0 * index.heads * index.head_dim * pairs,
            stored_bytes=keys,
            read_bytes=keys + index.heads * (index.head_dim + SCORE_BYTES) * rows,
            write_bytes=scored,
            pairs=pairs,
        ),
        IndexChoice(
            name="index choice",
            part=part,
            count=layers,
            read_bytes=SCORE_READS * scored,
            write_bytes=CHOICE_BYTES * index.topk * rows,
            rows=rows,
            pairs=pairs,
            even=part == "prefill",
        ),
    ]


def sparse_prefill_attention(
    name: str,
    count: float,
    tokens: Number,
    pairs: Number,
    *,
    topk: int,
    heads: int,
    latent_dim: int,
    rope_dim: int,
    kv_bytes: float,
) -> SparsePrefillAttention:
    """Scores over latent and rotary width, values over the latent; every token reads the latents that it chose."""
    gathered = (latent_dim + rope_dim) * kv_bytes * pairs
    return SparsePrefillAttention(
        name=name,
        part="prefill",
        count=count,
        flops=2.0 * heads * (2 * latent_dim + rope_dim) * pairs,
        read_bytes=gathered + heads * (latent_dim + rope_dim) * ACTIVATION_BYTES * tokens,
        write_bytes=heads * latent_dim * ACTIVATION_BYTES * tokens,
        tokens=tokens,
        pairs=pairs,
        topk=topk,
        heads=heads,
        latent_dim=latent_dim,
        rope_dim=rope_dim,
        kv_bytes=kv_bytes,
    )
