"""A transformer layer of a training microbatch, forward and backward.

Sources of what is sent: tensor and sequence parallelism arXiv:1909.08053 and arXiv:2205.05198; ring
attention arXiv:2310.01889 with early and late pieces of the sequence on each rank; Ulysses
arXiv:2309.14509. Products with a sharded input gradient hide their collectives behind the weight
gradient when `async_backward` says so, as Megatron-LM does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from windtunnel.operators.matmul import Matmul
from windtunnel.operators.operator import ACTIVATION_BYTES, Number, Operator
from windtunnel.operators.training import (
    GroupCollective,
    LayerPhases,
    Phase,
    gradients,
    group_collective,
    linear,
    streamed,
)
from windtunnel.specs.fields import DTYPE_BYTES, Dtype
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingPlan

EAGER_RMSNORM_PASSES = 6.0
"""Passes over the hidden state of an RMSNorm written as separate framework calls (square, mean, scale, casts)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """What a layer's work depends on; degrees and tokens may be arrays, flags may not.

    Attributes:
        sequences: sequences of the microbatch.
        seq_len: tokens per sequence.
        tp, cp, ep, etp: parallel degrees.
        plan: supplies flags and number formats (its degrees are not read here).
        async_backward: collectives of input gradients run behind the weight gradient.
        dedupe: see `GroupCollective.dedupe`.
        sent_share: copies of a token that are sent, over its experts (1 when every copy travels).
        every_second: selective recomputation goes by operator: every second matrix product of a layer and all that is
            not a product, attention or a reduce-scatter (torchtitan).
        early_stop: full recomputation of a layer ends before its last product, whose output no gradient needs
            (PyTorch's non-reentrant checkpoints).
    """

    sequences: Number
    seq_len: Number
    tp: Number
    cp: Number
    ep: Number
    etp: Number
    plan: TrainingPlan
    async_backward: bool = True
    dedupe: Number = 1.0
    sent_share: Number = 1.0
    every_second: bool = False
    early_stop: bool = False

    @property
    def tokens(self) -> Number:
        """Tokens of the rank's context share."""
        return self.sequences * self.seq_len / self.cp

    @property
    def rows(self) -> Number:
        """Rows of what sequence parallelism shards: norms and residuals."""
        return self.tokens / self.tp if self.plan.sequence_parallel else self.tokens

    @property
    def dtype(self) -> Dtype:
        """Arithmetic of the linear layers as the cost model knows it."""
        name = self.plan.compute_dtype
        return "fp8" if name == "mxfp8" else name

    @property
    def accumulator_bytes(self) -> float:
        """Bytes of a gradient value."""
        return 4.0 if self.plan.grad_dtype == "fp32" else 2.0


@dataclass(slots=True)
class Recorder:
    """Collects a layer's operators into phases; what is recomputed is copied as it is recorded."""

    micro: Microbatch
    phases: LayerPhases = field(default_factory=LayerPhases)
    ended: bool = False

    def again(self, module: str) -> bool:
        """Whether the backward pass computes a module again."""
        plan = self.micro.plan
        if self.ended and self.micro.early_stop and plan.recompute == "full":
            return False
        if self.micro.every_second:
            return module in ("norm", "rotary", "activation", "cast")
        return plan.recompute == "full" or (plan.recompute == "selective" and module in plan.recompute_modules)

    def forward(self, module: str, *operators: Operator) -> None:
        """Operators of the forward pass."""
        self.phases.forward.compute.extend(operators)
        if self.again(module):
            self.phases.recompute.compute.extend(operators)

    def backward(self, *operators: Operator) -> None:
        """Operators of the input gradients."""
        self.phases.input_gradient.compute.extend(operators)

    def send(self, module: str, forward: GroupCollective | None, backward: GroupCollective | None) -> None:
        """Collectives that are waited for."""
        if forward is not None:
            self.phases.forward.exposed.append(forward)
            if self.again(module):
                self.phases.recompute.exposed.append(forward)
        if backward is not None:
            self.phases.input_gradient.exposed.append(backward)

    def stream(
        self,
        module: str,
        name: str,
        rows: Number,
        forward: tuple[Number, Number],
        backward: tuple[Number, Number],
        kernels: int = 1,
    ) -> None:
        """An elementwise pass with (read, written) values per row, forward and backward."""
        self.forward(module, streamed(name, rows, *forward, kernels))
        self.backward(streamed(f"{name}, gradient", rows, *backward, kernels))

    def product(self, module: str, product: Matmul, *, trains: bool = True) -> tuple[Operator, Operator | None]:
        """A linear layer; returns its input-gradient and weight-gradient products."""
        self.forward(module, product)
        back, weight = gradients(product, self.micro.accumulator_bytes)
        self.backward(*back)
        if not trains:
            return back[0], None
        self.phases.weight_gradient.compute.extend(weight)
        return back[0], weight[0]

    def second(self, name: str, rows: Number, n: Number, k: Number) -> None:
        """A product that is computed again because it is every second one of its layer."""
        if self.micro.every_second:
            self.phases.recompute.compute.append(linear(f"{name}, again", rows, n, k, self.micro.dtype))

    def cast(self, rows: Number, width: Number, *, forward: bool) -> None:
        """Conversion to a narrow format, row-wise and column-wise copies (8-bit and 4-bit arithmetic only)."""
        bytes_each = DTYPE_BYTES[self.micro.dtype]
        if bytes_each < ACTIVATION_BYTES:
            op = streamed("cast", rows, width, width * bytes_each)
            if forward:
                self.forward("cast", op)
            else:
                self.backward(op)


def layer_phases(model: ModelSpec, micro: Microbatch, *, routed: bool) -> LayerPhases:
    """One layer: attention and a dense or routed MLP.

    Args:
        model: the model.
        micro: the microbatch and layout.
        routed: whether its MLP is a mixture of experts.
    """
    # They build on this module.
    from windtunnel.operators.training_attention import grouped_query, latent_attention
    from windtunnel.operators.training_moe import routed_mlp

    rec = Recorder(micro)
    norm(rec, model)
    if model.latent is not None:
        latent_attention(rec, model, model.latent)
    else:
        grouped_query(rec, model)
    residual(rec, model.hidden)
    if not model.parallel_attention:
        norm(rec, model)
    if routed:
        routed_mlp(rec, model)
    else:
        dense_mlp(rec, model, model.ffn, "mlp")
    residual(rec, model.hidden)
    for _ in range(model.norms_per_layer - 2):
        norm(rec, model)
    if micro.plan.lora_rank:
        _adapters(rec, model)
    return rec.phases


def norm(rec: Recorder, model: ModelSpec) -> None:
    """A norm over the hidden width: its input is read again backward, with the gradient."""
    h = model.hidden
    eager = not rec.micro.plan.fused_kernels and model.norm == "rmsnorm"
    passes = EAGER_RMSNORM_PASSES if eager else 1.0
    rec.stream("norm", "norm", rec.micro.rows, (passes * h, passes * h), (2 * passes * h, passes * h))


def residual(rec: Recorder, hidden: int) -> None:
    """The residual's addition; backward, two gradients meet."""
    rec.stream("residual", "residual", rec.micro.rows, (2 * hidden, hidden), (2 * hidden, hidden))


def column_linear(
    rec: Recorder, module: str, name: str, n: Number, k: int, *, trains: bool = True, sends: bool = True
) -> None:
    """A product whose columns are sharded over TP: its input is gathered, its input gradient reduced.

    With `sends` off it reads an input that is gathered already, and its gradient joins that one's.
    """
    m = rec.micro
    product = linear(name, m.tokens, n, k, m.dtype)
    back, weight = rec.product(module, product, trains=trains)
    if not sends:
        return
    message = m.tokens * k * ACTIVATION_BYTES
    host = rec.phases.input_gradient if weight is None else rec.phases.weight_gradient
    if m.plan.sequence_parallel:
        gather = group_collective(f"gather for {name}", "all_gather", message, "tensor", m.tp)
        _beside(rec, module, gather, product)
        again = group_collective(f"gather again for {name}", "all_gather", message, "tensor", m.tp)
        scatter = group_collective(f"scatter from {name}, gradient", "reduce_scatter", message, "tensor", m.tp)
        if weight is not None:
            behind(rec.phases.input_gradient, again, back, m.async_backward)
    else:
        scatter = group_collective(f"reduce from {name}, gradient", "all_reduce", message, "tensor", m.tp)
    behind(host, scatter, weight, m.async_backward)


def row_linear(rec: Recorder, module: str, name: str, n: int, k: Number, *, sends: bool = True) -> None:
    """A product whose rows are sharded over TP: its output is reduced, its output gradient gathered.

    With `sends` off its output is added to another product's before that one's is reduced.
    """
    m = rec.micro
    product = linear(name, m.tokens, n, k, m.dtype)
    back, _ = rec.product(module, product, trains=not m.plan.lora_rank)
    if not sends:
        return
    message = m.tokens * n * ACTIVATION_BYTES
    if not m.plan.sequence_parallel:
        rec.send(module, group_collective(f"reduce from {name}", "all_reduce", message, "tensor", m.tp), None)
        return
    scatter = group_collective(f"scatter from {name}", "reduce_scatter", message, "tensor", m.tp)
    gather = group_collective(f"gather for {name}, gradient", "all_gather", message, "tensor", m.tp)
    _beside(rec, module, scatter, product)
    if m.plan.tp_overlap:
        rec.phases.input_gradient.pieced.append((gather, back))
    else:
        rec.phases.input_gradient.exposed.append(gather)


def _beside(rec: Recorder, module: str, sent: GroupCollective, product: Operator) -> None:
    """A forward collective: waited for, or cut into pieces that overlap with its product."""
    if not rec.micro.plan.tp_overlap:
        rec.send(module, sent, None)
        return
    rec.phases.forward.pieced.append((sent, product))
    if rec.again(module):
        rec.phases.recompute.pieced.append((sent, product))


def behind(phase: Phase, sent: GroupCollective, product: Operator | None, hidden: bool) -> None:
    """A collective behind a product of its phase, or waited for."""
    if hidden and product is not None:
        phase.behind.append((sent, product))
    else:
        phase.exposed.append(sent)


def dense_mlp(rec: Recorder, model: ModelSpec, ffn: int, module: str) -> None:
    """A dense MLP: up (and gate), activation, down."""
    m = rec.micro
    width = ffn / m.tp
    gate = 2 if model.gated_mlp else 1
    trains = not m.plan.lora_rank
    # Side by side with attention it reads the same gathered input, and both outputs are reduced as one.
    together = model.parallel_attention
    column_linear(rec, module, "mlp up", gate * width, model.hidden, trains=trains, sends=not together)
    rec.second("mlp up", m.tokens, width, model.hidden)
    activation(rec, m.tokens, width, gated=model.gated_mlp)
    rec.cast(m.tokens, model.hidden, forward=False)
    # A norm behind it would need its output again; the shared expert of a mixture is not the last product.
    rec.ended = module == "mlp" and model.norms_per_layer <= 2
    row_linear(rec, module, "mlp down", model.hidden, width)


def activation(rec: Recorder, rows: Number, width: Number, *, gated: bool) -> None:
    """The nonlinearity, with its gate's product; eager frameworks run the two apart."""
    eager = not rec.micro.plan.fused_kernels
    if not gated:
        rec.stream("activation", "activation", rows, (width, width), (2 * width, width))
    elif eager:
        rec.stream("activation", "activation", rows, (3 * width, 2 * width), (5 * width, 3 * width))
    else:
        rec.stream("activation", "activation", rows, (2 * width, width), (3 * width, 2 * width))


def _adapters(rec: Recorder, model: ModelSpec) -> None:
    """LoRA on the four attention and the MLP matrices: two thin products each (arXiv:2106.09685)."""
    m, r = rec.micro, rec.micro.plan.lora_rank
    widths = [(model.hidden, model.heads * model.head_dim), (model.hidden, model.ffn)]
    for near, far in widths:
        for _ in range(2):
            rec.product("lora", linear("adapter down", m.tokens, r, near, "bf16"))
            rec.product("lora", linear("adapter up", m.tokens, far / m.tp, r, "bf16"))
