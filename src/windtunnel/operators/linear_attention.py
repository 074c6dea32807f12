"""Linear attention: a recurrent state per request in place of a KV cache (gated delta net)."""

from __future__ import annotations

from windtunnel.operators.elementwise import elementwise
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator
from windtunnel.operators.shard import matrix_dtypes
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


def linear_projections(model: ModelSpec, linear: LinearAttention, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """Projections into and out of the linear layers, heads sharded by TP, and the convolution and gates between."""
    tp = plan.tensor_parallel
    stored, computed = matrix_dtypes(model, plan, routed=False)
    into, out = -(-linear.in_width // tp), -(-linear.out_width // tp)
    return [
        matmul("linear attention in", "tokens", linear.layers, tokens, into, model.hidden, stored, computed),
        elementwise("convolution and gates", "tokens", linear.layers, tokens, read=into, written=into, kernels=2),
        elementwise("gated norm", "tokens", linear.layers, tokens, read=2 * out, written=out),
        matmul("linear attention out", "tokens", linear.layers, tokens, model.hidden, out, stored, computed),
    ]


def linear_decode(linear: LinearAttention, plan: PlanSpec, requests: Number) -> list[Operator]:
    """One token per request: its state is read and written once."""
    values = linear.state_values / plan.tensor_parallel * STATE_BYTES / ACTIVATION_BYTES
    return [elementwise("linear attention", "decode", linear.layers, requests, read=values, written=values)]


def linear_prefill(linear: LinearAttention, plan: PlanSpec, tokens: Number) -> list[Operator]:
    """A prompt in chunks: its tokens are streamed, the state is visited once a chunk."""
    state = linear.state_values / plan.tensor_parallel * STATE_BYTES / ACTIVATION_BYTES / CHUNK_TOKENS
    width = linear.in_width / plan.tensor_parallel
    moved = PREFILL_PASSES * (state + 2 * width)
    return [
        elementwise(
            "linear attention", "prefill", linear.layers, tokens, read=moved, written=moved, kernels=PREFILL_KERNELS
        )
    ]
