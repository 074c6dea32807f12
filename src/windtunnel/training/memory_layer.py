"""What a layer's forward pass keeps for its backward pass, tensor by tensor.

For a standard layer (two-matrix MLP, LayerNorm, dropout, attention without FlashAttention, 16 bits) the
sum is that of Korthikanti et al. (arXiv:2205.05198), with s tokens, b sequences, h hidden, a heads, t ranks:

    s b h (34 + 5 a s / h)                   one rank                             (equation 1)
    s b h (10 + 24 / t + 5 a s / (h t))      tensor parallelism                   (equation 2)
    s b h (34 / t + 5 a s / (h t))           with sequence parallelism            (equation 4)
    s b h 34 / t                             attention's core computed again      (equation 6)
    s b h 2                                  the whole layer computed again

FlashAttention keeps its inputs, its output and one fp32 value per token and head (arXiv:2205.14135).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from windtunnel.operators.linear_attention import CHUNK_TOKENS
from windtunnel.operators.operator import Number
from windtunnel.specs.model import LatentAttention, LinearAttention
from windtunnel.training.memory_layout import MemoryLayout, widest


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor kept from the forward to the backward pass of one microbatch.

    Attributes:
        name: what it is.
        bytes: its size on the rank.
        again: modules whose recomputation makes it unnecessary.
        linear_input: whether a weight gradient needs it.
    """

    name: str
    bytes: Number
    again: tuple[str, ...] = ()
    linear_input: bool = False


@dataclass(slots=True)
class LayerMemory:
    """A layer's kept tensors and the room that its gradients take.

    Attributes:
        kept: tensors, the layer's input first.
        output_gradients: bytes of the output gradients of its linear layers, which zero-bubble
            schedules hold from the input gradient to the weight gradient.
        working: candidates for the room that gradients take at once: (where, bytes).
    """

    kept: list[Kept] = field(default_factory=list)
    output_gradients: Number = 0.0
    working: list[tuple[str, Number]] = field(default_factory=list)

    def add(self, name: str, size: Number, *again: str, linear_input: bool = False) -> None:
        """Keep a tensor."""
        self.kept.append(Kept(name, size, again, linear_input))

    @property
    def full_bytes(self) -> Number:
        """Everything kept when nothing is computed again."""
        return sum((t.bytes for t in self.kept), 0.0)

    @property
    def input_bytes(self) -> Number:
        """The layer's input alone: what full recomputation keeps."""
        return self.kept[0].bytes

    @property
    def weight_gradient_bytes(self) -> Number:
        """Held between a layer's input gradient and its weight gradient."""
        return self.output_gradients + sum((t.bytes for t in self.kept if t.linear_input), 0.0)

    @property
    def working_bytes(self) -> Number:
        """Room of the gradients at the layer's widest point."""
        return widest(*(size for _, size in self.working))


def layer_memory(layout: MemoryLayout, *, routed: bool) -> LayerMemory:
    """What one layer keeps of one microbatch."""
    model = layout.model
    found = LayerMemory()
    _norm(found, layout, "layer input", "attention input")
    if model.latent is not None:
        _latent(found, layout, model.latent)
    elif model.linear is not None:
        _mixed(found, layout, model.linear)
    else:
        _grouped_query(found, layout)
    if layout.plan.dropout:
        found.add("attention dropout mask", layout.rows * model.hidden)
    if not model.parallel_attention:
        _norm(found, layout, "mlp norm input", "mlp input")
    if routed:
        _routed(found, layout)
    else:
        _mlp(found, layout, model.ffn, "mlp", "mlp")
    if layout.plan.dropout:
        found.add("mlp dropout mask", layout.rows * model.hidden)
    for _ in range(model.norms_per_layer - (1 if model.parallel_attention else 2)):
        found.add("further norm input", layout.rows * model.hidden * layout.value_bytes)
    if layout.plan.lora_rank:
        linears = 2 + model.mlp_matrices + 2
        found.add("adapters", linears * layout.tokens * layout.plan.lora_rank * layout.value_bytes, linear_input=True)
    return found


def kept_bytes(layout: MemoryLayout, layer: LayerMemory) -> Number:
    """Bytes a layer keeps under the plan's recomputation, when it applies to the layer."""
    plan = layout.plan
    if plan.recompute == "none":
        return layer.full_bytes
    if plan.recompute == "full":
        return layer.input_bytes
    model = layout.model
    if layout.engine == "torchtitan" and model.gated_mlp and model.moe is None and model.latent is None:
        return operator_checkpoint_bytes(layout)
    again = set(plan.recompute_modules)
    return sum((t.bytes for t in layer.kept if not again.intersection(t.again)), 0.0)


def operator_checkpoint_bytes(layout: MemoryLayout) -> Number:
    """What torchtitan's per-operator checkpointing keeps of a layer.

    The layer's input, the outputs of every second matrix product (query, value, gate, down), of
    attention and of reduce-scatters; the rest is computed again.
    """
    model, each = layout.model, layout.value_bytes
    q = model.heads / layout.tp * model.head_dim
    kv = np.maximum(model.kv_heads / layout.tp, 1.0) * model.head_dim
    statistics = 4.0 * layout.tokens * model.heads / layout.tp
    scattered = np.where(np.asarray(layout.tp) > 1, 2.0, 0.0) * layout.rows * model.hidden
    inner = 2.0 * q + kv + model.ffn / layout.tp + model.hidden
    return each * (layout.rows * model.hidden + layout.tokens * inner + scattered) + statistics


def _norm(found: LayerMemory, layout: MemoryLayout, before: str, after: str) -> None:
    """A norm's input, and its output as the input of the products behind it.

    Written as separate framework calls, an RMSNorm keeps an fp32 copy of its input and its
    normalised values besides.
    """
    size = layout.rows * layout.model.hidden
    found.add(before, size * layout.value_bytes)
    if not layout.plan.fused_kernels and layout.model.norm == "rmsnorm":
        found.add(f"{before}, widened", size * (4.0 + layout.value_bytes), "norm")
    found.add(after, size * layout.input_bytes, "norm", linear_input=True)


def _grouped_query(found: LayerMemory, layout: MemoryLayout) -> None:
    model, each = layout.model, layout.value_bytes
    q = model.heads / layout.tp * model.head_dim
    kv = _key_heads(layout) * model.head_dim
    if model.qk_norm:
        found.add("qk norm input", layout.tokens * (q + kv) * each)
    if model.attention_gate:
        # The gate, and attention's output before it.
        found.add("attention gate", layout.tokens * 2.0 * q * each)
    found.add("query", layout.tokens * q * each)
    found.add("key", layout.tokens * kv * each)
    found.add("value", layout.tokens * kv * each)
    _core(found, layout, q, 2.0 * kv)
    found.output_gradients += layout.tokens * (q + 2.0 * kv) * each + layout.rows * model.hidden * each


def _mixed(found: LayerMemory, layout: MemoryLayout, a: LinearAttention) -> None:
    """Layers of which some attend and others have linear attention: the mean of both, by their numbers."""
    linear = a.layers / layout.model.layers
    for kind, share in ((_grouped_query, 1.0 - linear), (partial(_linear, a=a), linear)):
        one = LayerMemory()
        kind(one, layout)
        found.kept += [replace(tensor, bytes=tensor.bytes * share) for tensor in one.kept]
        found.output_gradients += share * one.output_gradients
        found.working += one.working


def _linear(found: LayerMemory, layout: MemoryLayout, a: LinearAttention) -> None:
    """Linear attention in chunks (arXiv:2412.06464): inputs of the convolution and of the scan, a state per chunk."""
    each, per_rank = layout.value_bytes, layout.tokens / layout.tp
    scanned = 2 * a.key_heads * a.key_dim + a.out_width
    found.add("linear attention projections", per_rank * a.in_width * each)
    found.add("linear attention scan input", per_rank * scanned * each, "core_attention")
    found.add("linear attention states", per_rank * a.state_values / CHUNK_TOKENS * each, "core_attention")
    found.add("linear attention norm input", per_rank * a.out_width * each)
    found.add("linear attention output", per_rank * a.out_width * layout.input_bytes, linear_input=True)
    found.output_gradients += per_rank * a.in_width * each + layout.rows * layout.model.hidden * each
    found.working.append(("linear attention", per_rank * (a.in_width + scanned) * each))


def _key_heads(layout: MemoryLayout) -> Number:
    """Key heads per token of the rank's share; Ulysses copies heads that are fewer than TP x CP (arXiv:2309.14509)."""
    heads = layout.model.kv_heads / layout.tp
    if layout.plan.context_method == "ulysses":
        return np.maximum(heads, layout.cp)
    return np.maximum(heads, 1.0)


def _core(found: LayerMemory, layout: MemoryLayout, out: Number, keys: Number) -> None:
    """Attention's core: its scores, or FlashAttention's statistics; and its output."""
    plan, each = layout.plan, layout.value_bytes
    heads = layout.model.heads / layout.tp
    scores = layout.tokens * layout.seq_len * heads
    if plan.flash_attention:
        found.add("softmax statistics", 4.0 * layout.tokens * heads, "core_attention")
        working = layout.tokens * (2.0 * out + keys) * each
    else:
        # Without a fused softmax its result is kept in fp32 as well.
        widened = 0.0 if plan.fused_kernels else 4.0
        found.add("softmax", scores * (each + widened), "core_attention")
        if plan.dropout:
            found.add("softmax dropout mask", scores, "core_attention")
            found.add("softmax after dropout", scores * each, "core_attention")
        working = layout.tokens * (2.0 * out + keys) * each + 2.0 * scores * each
    found.add("attention output", layout.tokens * out * layout.input_bytes, linear_input=True)
    if layout.input_bytes < each and plan.flash_attention:
        # The 8-bit product keeps its own copy; FlashAttention's backward pass needs the 16-bit one.
        found.add("attention output, 16 bits", layout.tokens * out * each)
    found.working.append(("attention", working))


def _latent(found: LayerMemory, layout: MemoryLayout, a: LatentAttention) -> None:
    """Latent attention as trained: keys and values projected up for every head (arXiv:2405.04434)."""
    each, heads = layout.value_bytes, layout.model.heads / layout.tp
    q_dim = a.qk_nope_head_dim + a.qk_rope_head_dim
    for name, width in (("query latent", a.q_lora_rank), ("latent", a.kv_lora_rank)):
        if width:
            found.add(f"{name}, norm input", layout.rows * width * each)
            found.add(name, layout.rows * width * layout.input_bytes, "norm", linear_input=True)
    found.add("query", layout.tokens * heads * q_dim * each, "latent_up")
    found.add("key", layout.tokens * heads * q_dim * each, "latent_up")
    found.add("value", layout.tokens * heads * a.v_head_dim * each, "latent_up")
    out = heads * a.v_head_dim
    _core(found, layout, out, heads * (2.0 * q_dim + a.v_head_dim))
    wide = heads * (q_dim + a.qk_nope_head_dim + a.v_head_dim)
    down = a.q_lora_rank + a.kv_lora_rank + a.qk_rope_head_dim + layout.model.hidden
    found.output_gradients += (layout.tokens * wide + layout.rows * down) * each


def _mlp(found: LayerMemory, layout: MemoryLayout, ffn: int, name: str, module: str) -> None:
    """Up (and gate) output, kept for the activation's gradient, and the input of down."""
    model, each = layout.model, layout.value_bytes
    width, gates = ffn / layout.tp, model.mlp_matrices - 1
    found.add(f"{name} activation input", layout.tokens * gates * width * _activation_bytes(layout), module)
    if model.gated_mlp and not layout.plan.fused_kernels:
        found.add(f"{name} activation", layout.tokens * width * each, module, "activation")
    found.add(f"{name} down input", layout.tokens * width * layout.input_bytes, module, "activation", linear_input=True)
    found.output_gradients += (layout.tokens * gates * width + layout.rows * model.hidden) * each
    found.working.append((name, layout.tokens * (gates + 1) * width * each + _hidden_working(layout)))


def _activation_bytes(layout: MemoryLayout) -> float:
    """Bytes of a kept input of an activation function; in 8 bits as DeepSeek-V3 does (arXiv:2412.19437, 3.3.3)."""
    return min(layout.value_bytes, 1.0) if layout.plan.narrow_activations else layout.value_bytes


def _hidden_working(layout: MemoryLayout) -> Number:
    """Hidden-wide gradients around a product: in and out, and the gathered input under sequence parallelism."""
    gathered = np.where(np.asarray(layout.tp) > 1, 1.0, 0.0) if layout.plan.sequence_parallel else 0.0
    return layout.tokens * layout.model.hidden * layout.value_bytes * (2.0 + gathered)


def routed_rows(layout: MemoryLayout) -> Number:
    """Rows that the busiest rank's experts compute, of one microbatch."""
    moe = layout.model.moe
    assert moe is not None
    return layout.tokens / layout.tp * moe.experts_per_token * layout.etp * layout.plan.moe_imbalance


def _routed(found: LayerMemory, layout: MemoryLayout) -> None:
    """Router, dispatched copies of tokens, experts and combination."""
    model, moe, each = layout.model, layout.model.moe, layout.value_bytes
    assert moe is not None
    own = layout.tokens / layout.tp
    rows, width, gates = routed_rows(layout), moe.expert_ffn / layout.etp, model.mlp_matrices - 1
    # Scores and probabilities in fp32.
    found.add("router scores", own * moe.experts * 8.0, "moe")
    found.add("dispatched tokens", rows * model.hidden * layout.input_bytes, "moe", linear_input=True)
    found.add("experts activation input", rows * gates * width * _activation_bytes(layout), "moe")
    if model.gated_mlp and not layout.plan.fused_kernels:
        found.add("experts activation", rows * width * each, "moe", "activation")
    found.add("experts down input", rows * width * layout.input_bytes, "moe", "activation", linear_input=True)
    if not layout.plan.fused_kernels:
        # Fused kernels scale by the router's probability inside the activation; else the scaled outputs are kept.
        found.add("experts output", own * moe.experts_per_token * model.hidden * each, "moe")
    found.output_gradients += rows * (gates * width + model.hidden) * each
    if moe.shared_ffn:
        _mlp(found, layout, moe.shared_ffn, "shared experts", "moe")
    working = rows * ((gates + 1) * width + 2.0 * model.hidden) * each + _hidden_working(layout)
    found.working.append(("experts", working))
