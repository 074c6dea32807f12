"""Linear attention: a recurrent state per request in place of a KV cache (gated delta net).

Kernels of a decode step per layer, as SGLang 0.5.10 (models/qwen3_5.py, linear/gdn_backend.py) and TensorRT-LLM's
PyTorch models launch them: two products in, one that splits their columns, the convolution, the delta rule with its
gates and norms, the gated norm, the product out. SGLang 0.5.9 has four products in and no split. vLLM 0.17 to 0.19
(layers/mamba/gdn_linear_attn.py) has two, copies the gates and clears the output where the others split.
"""

from __future__ import annotations

from windtunnel.operators.elementwise import elementwise
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator
from windtunnel.operators.shard import matrix_dtypes, plain_dtype
from windtunnel.specs.model import LinearAttention, ModelSpec
from windtunnel.specs.plan import PlanSpec

STATE_BYTES = 4.0
"""Bytes of a value of the state, which is kept in 32 bits."""
CHUNK_TOKENS = 64.0
"""Prompt tokens worked through between two visits to the state (the chunkwise form of the paper)."""
PREFILL_KERNELS = 22
"""What the chunkwise form takes for few tokens, in fixed times of elementwise kernels: some 45 us on H200 and B200
in the tables of aiconfigurator-core 0.12 (convolution and chunk_gated_delta_rule of SGLang 0.5.14)."""
PREFILL_PASSES = 2.8
"""Times that the chunkwise form moves its tokens and states, in the same tables: intermediates go through memory."""


def _widths(linear: LinearAttention, plan: PlanSpec) -> tuple[int, int, int]:
    """On one rank: channels of the convolution (queries, keys, values), width of the output, decays and rates."""
    out, gates = linear.out_width, 2 * linear.value_heads
    channels = linear.in_width - out - gates
    tp = plan.tensor_parallel
    return -(-channels // tp), -(-out // tp), -(-gates // tp)


def linear_projections(model: ModelSpec, linear: LinearAttention, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """Projections into and out of the linear layers, heads sharded by TP, and what follows each of them.

    The small product of the gates stays in 16 bits (`modules_to_not_convert` of Qwen3.5's FP8 checkpoints lists
    in_proj_a and in_proj_b), so that engines run it apart.
    """
    layers, hidden = linear.layers, model.hidden
    stored, computed = matrix_dtypes(model, plan, routed=False)
    plain = plain_dtype(plan)
    channels, out, gates = _widths(linear, plan)
    into = channels + out
    return [
        matmul("linear attention in", "tokens", layers, tokens, into, hidden, stored, computed, apart=(channels, out)),
        matmul("linear attention gates", "tokens", layers, tokens, gates, hidden, plain, plain),
        elementwise("split of projections", "tokens", layers, tokens, read=into + gates, written=into + gates),
        elementwise("gated norm", "tokens", layers, tokens, read=2 * out, written=out),
        matmul("linear attention out", "tokens", layers, tokens, hidden, out, stored, computed),
    ]


def linear_decode(linear: LinearAttention, plan: PlanSpec, requests: Number) -> list[Operator]:
    """One token per request: its window of the convolution and its state are read and written once.

    The kernel of the delta rule computes decay and rate from the gates and normalises queries and keys itself
    (fused_sigmoid_gating_delta_rule_update and its packed form in SGLang and vLLM).
    """
    channels, out, gates = _widths(linear, plan)
    window = max(linear.conv_tokens, 1) * channels
    values = linear.state_values / plan.tensor_parallel * STATE_BYTES / ACTIVATION_BYTES
    read, written = values + channels + gates, values + out
    return [
        elementwise("convolution", "decode", linear.layers, requests, read=window, written=window),
        elementwise("linear attention", "decode", linear.layers, requests, read=read, written=written),
    ]


def linear_prefill(linear: LinearAttention, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """A prompt in chunks: its tokens are streamed, the state is visited once a chunk.

    The convolution is in the tables that the constants come from; decays and rates, in 32 bits, are not
    (fused_gdn_gating in SGLang and vLLM).
    """
    state = linear.state_values / plan.tensor_parallel * STATE_BYTES / ACTIVATION_BYTES / CHUNK_TOKENS
    width = linear.in_width / plan.tensor_parallel
    moved = PREFILL_PASSES * (state + 2 * width)
    gates = _widths(linear, plan)[2]
    wide = gates * STATE_BYTES / ACTIVATION_BYTES
    return [
        elementwise("decays and rates", "prefill", linear.layers, tokens, read=gates, written=wide),
        elementwise(
            "linear attention", "prefill", linear.layers, tokens, read=moved, written=moved, kernels=PREFILL_KERNELS
        ),
    ]
