"""A batch turned into operators on one rank of a replica, using the repetition of layers.

The pass is written down in parts, each depending on its own sums of the batch, so that the same
code gives the operators of one batch (`expand`) and, with arrays for the sums, those of every
batch at once (the step surface).
"""

from __future__ import annotations

from windtunnel.operators.attention import decode_attention, prefill_attention
from windtunnel.operators.batch import Batch
from windtunnel.operators.collective import collective
from windtunnel.operators.elementwise import elementwise, quantize
from windtunnel.operators.latent_attention import (
    latent_decode,
    latent_prefill,
    latent_projections,
    sparse_decode,
    sparse_prefill,
)
from windtunnel.operators.linear_attention import linear_decode, linear_prefill, linear_projections
from windtunnel.operators.matmul import matmul
from windtunnel.operators.moe import experts
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator
from windtunnel.operators.shard import Shard, end_dtypes, matrix_dtypes, plain_dtype, shard
from windtunnel.operators.transfer import transfer
from windtunnel.specs.engine import Fusion
from windtunnel.specs.fields import DTYPE_BYTES, Dtype
from windtunnel.specs.model import MixtureOfExperts, ModelSpec
from windtunnel.specs.plan import PlanSpec

LOGIT_VALUES_READ = 3.0
LOGIT_VALUES_WRITTEN = 2.0
"""Sampling the likeliest token: logits are widened to fp32 (read 2 bytes, write 4) and searched (read 4);
in 16-bit values per logit."""

NORM_SUM_BYTES = 4.0
"""Bytes of a sum of squares that ranks exchange for a norm over all their heads: it is kept in 32 bits."""

REDUCED_HIDDEN = 4096
"""Width up to which dense models' norms are kept apart from the all-reduce before them."""


def expand(model: ModelSpec, plan: PlanSpec, batch: Batch) -> list[Operator]:
    """The forward pass of a batch on one rank of a replica, over all layers.

    With pipeline stages, a rank executes the share of `count` that its stage's layers are.

    Args:
        model: the model.
        plan: its layout, which divides the model's widths (see `specs.assemble.deployment_problems`).
        batch: the sums of the step.

    Returns:
        Operators in the order of execution within a layer; parts of which the batch has nothing are absent.
    """
    found: list[Operator] = []
    if batch.tokens:
        found += token_operators(model, plan, batch.tokens)
    if batch.decode_requests:
        queries = batch.queries
        found += decode_operators(model, plan, batch.decode_requests, batch.decode_context_tokens, queries)
        found += decode_window_operators(model, plan, batch.decode_requests, batch.decode_window_tokens, queries)
    if batch.prefill_tokens:
        found += prefill_operators(
            model,
            plan,
            batch.prefill_tokens,
            batch.prefill_pairs,
            batch.prefill_window_pairs,
            batch.prefill_context_tokens,
            batch.prefill_requests,
            *batch.prefill_keys,
        )
    if batch.sampled:
        found += sample_operators(model, plan, batch.sampled)
    if batch.tokens:
        found += hop_operators(model, plan, batch.tokens)
    return found


def token_operators(model: ModelSpec, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """What depends on the step's tokens alone: projections, MLP, experts, norms, collectives, embedding."""
    part = shard(model, plan)
    hidden = model.hidden
    together, tokens = tokens, tokens / plan.attention_data_parallel
    found = _embedding(model, part, tokens)
    found += _norms(model, part, tokens)
    found += latent_projections(model, plan, part, tokens) if model.latent else _projections(model, plan, part, tokens)
    if model.linear is not None:
        found += linear_projections(model, model.linear, plan, tokens)
    if model.dense_layers:
        dtypes = matrix_dtypes(model, plan, routed=False)
        found += _mlp(model, "mlp", model.dense_layers, tokens, part.ffn, dtypes)
    if model.moe is not None:
        found += _experts(model, model.moe, plan, part, tokens, together)
    if part.ranks > 1:
        reductions = (1 if model.parallel_attention else 2) * model.layers + 1
        message = hidden * ACTIVATION_BYTES * tokens
        found.append(collective("all-reduce", "tokens", reductions, message, part.ranks))
    if plan.attention_data_parallel > 1 and model.moe is not None:
        found += _exchange(model, plan, together)
    return found


def _exchange(model: ModelSpec, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """With data-parallel attention, ranks gather the tokens of all before the experts and scatter the sums after.

    Tokens travel in the experts' format, sums in 16 bits.
    """
    narrow = DTYPE_BYTES[matrix_dtypes(model, plan, routed=True)[1]]
    ranks, layers, h = plan.ranks_per_stage, model.moe_layers, model.hidden
    out, back = h * min(narrow, ACTIVATION_BYTES) * tokens, h * ACTIVATION_BYTES * tokens
    return [
        collective("gather tokens", "tokens", layers, out, ranks, "all_gather"),
        collective("scatter sums", "tokens", layers, back, ranks, "reduce_scatter"),
    ]


def _embedding(model: ModelSpec, part: Shard, tokens: Number) -> list[Operator]:
    width = model.embedding_dim or model.hidden
    reads = 2.0 if model.position == "learned" else 1.0
    found: list[Operator] = [
        elementwise("embedding", "tokens", 1, tokens, read=reads * width, written=width, kernels=int(reads))
    ]
    if width != model.hidden:
        found.append(matmul("embedding up", "tokens", 1, tokens, model.hidden, width))
    return found


def _norms(model: ModelSpec, part: Shard, tokens: Number) -> list[Operator]:
    """Two norms per layer are fused with the residual's addition; further ones stand alone.

    Where ranks add up a layer's outputs, the norm after that may be the all-reduce's work. TensorRT-LLM's models do
    so that are mixtures of experts (DeepSeek's, gpt-oss, Qwen3, Llama 4), and Llama's layers wider than 4,096 from 1.0
    on (pull request 6205: narrower ones lost accuracy), but not Qwen3's dense layers. Mixtral does not, but is counted
    as the other mixtures are: its shape does not tell it apart.
    """
    h = model.hidden
    fused = min(model.norms_per_layer, 2)
    moved = {"read": 2 * h, "written": 2 * h}
    wide = model.hidden > REDUCED_HIDDEN and not model.qk_norm
    within: Fusion | None = "all-reduce" if part.ranks > 1 and (model.moe is not None or wide) else None
    found: list[Operator] = [elementwise("norm", "tokens", fused * model.layers + 1, tokens, **moved, within=within)]
    if model.norms_per_layer > 2:
        count = (model.norms_per_layer - 2) * model.layers
        found.append(elementwise("output norm", "tokens", count, tokens, read=h, written=h))
    return found


def _projections(model: ModelSpec, plan: PlanSpec, part: Shard, tokens: Number) -> list[Operator]:
    stored, computed = matrix_dtypes(model, plan, routed=False)
    q, kv = part.q_heads * model.head_dim, part.kv_heads * model.head_dim
    layers = model.attention_layers
    width = q * (2 if model.attention_gate else 1) + 2 * kv
    apart = (width - 2 * kv, kv, kv)
    found: list[Operator] = [
        matmul("qkv", "tokens", layers, tokens, width, model.hidden, stored, computed, apart=apart)
    ]
    if model.attention_gate:
        # A sigmoid and a product (SGLang's qwen3_5.py until June 2026, which also copies both halves, TensorRT-LLM);
        # compiled models of vLLM and later SGLang fuse the two.
        found.append(elementwise("attention gate", "tokens", layers, tokens, read=3 * q, written=2 * q, kernels=2))
    if model.qk_norm:
        found += _qk_norm(model, part, tokens, q + kv)
    if model.position == "rope":
        width = q + kv
        found.append(elementwise("rope", "tokens", layers, tokens, read=width, written=width, within="attention"))
    found.append(elementwise("kv write", "tokens", layers, tokens, read=2 * kv, written=2 * kv, within="attention"))
    found += quantize(layers, tokens, q, computed, within="attention")
    found.append(matmul("attention out", "tokens", layers, tokens, model.hidden, q, stored, computed))
    return found


def _qk_norm(model: ModelSpec, part: Shard, tokens: Number, width: int) -> list[Operator]:
    """Norms of queries and keys: a kernel each where they span a head.

    Where they span a layer's heads, sharded ones: sums of squares of both, one all-reduce of the two sums in 32 bits,
    and the scaling of both. So SGLang since pull request 14416 (3 kernels) and vLLM 0.14 to 0.21 (31493); a kernel that
    does all three is an option of vLLM from April 2026 on (`fuse_minimax_qk_norm`) and later its default.
    """
    layers = model.attention_layers
    if model.qk_norm_over == "head" or part.ranks == 1:
        moved = {"read": width, "written": width}
        # Where attention rotates by itself, a kernel does both norms and the rotation for it (TensorRT-LLM's
        # QKNormRoPEAttention).
        return [elementwise("qk norm", "tokens", layers, tokens, **moved, kernels=2, within="attention", left=1)]
    sums = 2 * NORM_SUM_BYTES
    return [
        elementwise("qk norm", "tokens", layers, tokens, read=2 * width, written=width, kernels=2),
        collective("qk norm sums", "tokens", layers, sums * tokens, part.ranks),
    ]


def _mlp(
    model: ModelSpec, name: str, layers: int, tokens: Number, ffn: int, dtypes: tuple[Dtype, Dtype]
) -> list[Operator]:
    inputs = model.mlp_matrices - 1
    title = "gate and up" if model.gated_mlp else "up"
    apart = (ffn,) * inputs if inputs > 1 else ()
    return [
        matmul(f"{name} {title}", "tokens", layers, tokens, inputs * ffn, model.hidden, *dtypes, apart=apart),
        elementwise(f"{name} activation", "tokens", layers, tokens, read=inputs * ffn, written=ffn),
        matmul(f"{name} down", "tokens", layers, tokens, model.hidden, ffn, *dtypes),
    ]


def _experts(
    model: ModelSpec, moe: MixtureOfExperts, plan: PlanSpec, part: Shard, tokens: Number, together: Number
) -> list[Operator]:
    """Router (replicated), shared experts (sharded by TP) and the rank's routed experts.

    Where attention runs under TP, every rank already holds all tokens: experts spread by EP need no
    all-to-all, and the layer's one all-reduce adds their outputs (as vLLM does without
    data-parallel attention). With it, `tokens` are the rank's own and `together` those of all.
    """
    layers = model.moe_layers
    plain = plain_dtype(plan)
    stored, computed = matrix_dtypes(model, plan, routed=True)
    k = moe.experts_per_token
    found: list[Operator] = [
        matmul("router", "tokens", layers, tokens, moe.experts, model.hidden, plain, plain),
        elementwise("top-k", "tokens", layers, tokens, read=moe.experts, written=4 * k, kernels=2),
        experts(
            "experts",
            layers,
            together,
            experts=moe.experts,
            local_experts=part.experts,
            experts_per_token=k,
            hidden=model.hidden,
            ffn=part.expert_ffn,
            matrices=model.mlp_matrices,
            weight_dtype=stored,
            compute_dtype=computed,
        ),
    ]
    if moe.shared_ffn:
        dtypes = matrix_dtypes(model, plan, routed=False)
        found += _mlp(model, "shared expert", layers, tokens, part.shared_ffn, dtypes)
        h = model.hidden
        found.append(elementwise("add shared", "tokens", layers, tokens, read=2 * h, written=h))
    if moe.shared_gate:
        found.append(matmul("shared gate", "tokens", layers, tokens, 1, model.hidden, plain, plain))
        # A sigmoid of one value and a product, besides the addition: the shared experts of SGLang's and vLLM's
        # qwen2_moe.py and of TensorRT-LLM, which fuses the three from pull request 14306 (May 2026) on.
        h = model.hidden
        found.append(elementwise("apply shared gate", "tokens", layers, tokens, read=h + 2, written=h + 1, kernels=2))
    return found


def decode_operators(
    model: ModelSpec, plan: PlanSpec, requests: Number, context_tokens: Number, queries: int = 1
) -> list[Operator]:
    """Decode attention of the layers that attend to everything; of sparse attention, the index.

    With several `queries` (tokens per request, as when drafts are verified) keys and values are read once for all.
    """
    part = shard(model, plan)
    kv_bytes = DTYPE_BYTES[plan.kv_dtype]
    requests, context_tokens = requests / plan.attention_data_parallel, context_tokens / plan.attention_data_parallel
    if model.latent is not None:
        return latent_decode(model, plan, part, requests, context_tokens, queries)
    recurrent = linear_decode(model.linear, plan, requests) if model.linear is not None else []
    layers = model.attention_layers - model.window_layers
    if not layers:
        return recurrent
    heads = {"q_heads": part.q_heads * queries, "kv_heads": part.kv_heads, "head_dim": model.head_dim}
    return [
        decode_attention("decode attention", "decode", layers, requests, context_tokens, **heads, kv_bytes=kv_bytes),
        *recurrent,
    ]


def decode_window_operators(
    model: ModelSpec, plan: PlanSpec, requests: Number, window_tokens: Number, queries: int = 1
) -> list[Operator]:
    """Decode attention of the windowed layers, or over what a sparse index picks, `queries` tokens per request."""
    if not model.attended_tokens:
        return []
    part = shard(model, plan)
    requests, window_tokens = requests / plan.attention_data_parallel, window_tokens / plan.attention_data_parallel
    if model.latent is not None:
        return sparse_decode(model, plan, part, requests, window_tokens, queries)
    heads = {"q_heads": part.q_heads * queries, "kv_heads": part.kv_heads, "head_dim": model.head_dim}
    return [
        decode_attention(
            "decode attention, windowed",
            "decode_window",
            model.window_layers,
            requests,
            window_tokens,
            **heads,
            kv_bytes=DTYPE_BYTES[plan.kv_dtype],
        )
    ]


def prefill_operators(
    model: ModelSpec,
    plan: PlanSpec,
    tokens: Number,
    pairs: Number,
    window_pairs: Number,
    context_tokens: Number,
    requests: Number,
    keys: Number,
    window_keys: Number,
) -> list[Operator]:
    """Attention of prompt chunks.

    Args:
        model, plan: what runs.
        tokens, pairs, window_pairs, context_tokens, requests: sums over the chunks (see `Batch`).
        keys, window_keys: `Batch.prefill_keys`.
    """
    part = shard(model, plan)
    groups = plan.attention_data_parallel
    tokens, pairs, window_pairs, context_tokens, requests = (
        one / groups for one in (tokens, pairs, window_pairs, context_tokens, requests)
    )
    kv_bytes = DTYPE_BYTES[plan.kv_dtype]
    if model.sparse_index is not None:
        return sparse_prefill(model, plan, part, tokens, pairs, window_pairs, context_tokens)
    if model.latent is not None:
        return latent_prefill(model, plan, part, requests, tokens, pairs, context_tokens, keys)
    dims = {"q_heads": part.q_heads, "kv_heads": part.kv_heads, "head_dim": model.head_dim}
    found: list[Operator] = linear_prefill(model.linear, plan, tokens) if model.linear is not None else []
    full = model.attention_layers - model.window_layers
    if full:
        found.append(
            prefill_attention(
                "prefill attention",
                full,
                requests,
                tokens,
                pairs,
                context_tokens,
                keys,
                **dims,
                v_head_dim=model.head_dim,
                kv_bytes=kv_bytes,
            )
        )
    if model.window_layers:
        name = "prefill attention, windowed"
        found.append(
            prefill_attention(
                name,
                model.window_layers,
                requests,
                tokens,
                window_pairs,
                0.0,
                window_keys,
                **dims,
                v_head_dim=model.head_dim,
                kv_bytes=kv_bytes,
            )
        )
    return found


def sample_operators(model: ModelSpec, plan: PlanSpec, sampled: Number) -> list[Operator]:
    """LM head over the sampled rows only, logits gathered from the ranks, and the choice of a token."""
    part = shard(model, plan)
    dtypes = end_dtypes(plan)
    width = model.embedding_dim or model.hidden
    sampled = sampled / plan.attention_data_parallel
    found: list[Operator] = []
    if width != model.hidden:
        found.append(matmul("embedding down", "sampled", 1, sampled, width, model.hidden, *dtypes))
    found.append(matmul("lm head", "sampled", 1, sampled, part.vocab, width, *dtypes))
    if part.ranks > 1:
        logits = part.vocab * part.ranks * ACTIVATION_BYTES * sampled
        found.append(collective("gather logits", "sampled", 1, logits, part.ranks, "all_gather"))
    read, written, scores = LOGIT_VALUES_READ * model.vocab, LOGIT_VALUES_WRITTEN * model.vocab, model.vocab * sampled
    found.append(elementwise("sampling", "sampled", 1, sampled, read=read, written=written, kernels=2, logits=scores))
    return found


def hop_operators(model: ModelSpec, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """Hidden state and residual sent from stage to stage: each TP rank sends its share, peers gather."""
    stages, tp = plan.pipeline_parallel, plan.tensor_parallel
    if stages == 1:
        return []
    message = 2.0 * model.hidden * ACTIVATION_BYTES * tokens / plan.attention_data_parallel
    found: list[Operator] = [transfer("send to next stage", stages - 1, message / tp)]
    if tp > 1:
        found.append(collective("gather from last stage", "hop", stages - 1, message, tp, "all_gather"))
    return found
