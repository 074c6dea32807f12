"""The routed MLP of a training microbatch: router, dispatch, grouped products, combination.

Each rank routes its own tokens. With experts spread over EP ranks, copies of the tokens go to them
and back by all-to-all (GShard, arXiv:2006.16668); with TP inside an expert, the ranks of an expert's
group gather each other's tokens first. Routing is even up to the plan's `moe_imbalance`: the
busiest rank holds everybody up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from windtunnel.operators.operator import ACTIVATION_BYTES, Number
from windtunnel.operators.training import group_collective, linear
from windtunnel.operators.training_layer import Recorder, activation, dense_mlp
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.model import ModelSpec

ROUTING_KERNELS = 24
PERMUTE_KERNELS = 8
"""Kernels of choosing experts (scores, normalisation, choice, counts, auxiliary loss) and of laying out tokens
(counts to offsets, sort, gather), as the public dispatchers of Megatron Core launch them."""


def routed_mlp(rec: Recorder, model: ModelSpec) -> None:
    """Router, shared experts, dispatch, experts and combination."""
    moe = model.moe
    assert moe is not None
    m, h = rec.micro, model.hidden
    own = m.tokens / m.tp
    top = moe.experts_per_token
    rec.product("moe", linear("router", own, moe.experts, h, "bf16"), trains=not m.plan.lora_rank)
    # Scores are widened to fp32, normalised, the best chosen and sorted: passes over (tokens, experts).
    rec.stream(
        "moe", "routing", own, (6 * moe.experts, 4 * moe.experts), (4 * moe.experts, 2 * moe.experts), ROUTING_KERNELS
    )
    if moe.shared_ffn:
        dense_mlp(rec, model, moe.shared_ffn, "moe")
    copies = own * top
    # A fused dispatch reads each token where it is and adds up its copies as they come back.
    if not m.plan.moe_fused_dispatch:
        permute(rec, "dispatch copies", own, h, top)
    exchange(rec, copies * m.sent_share * h * ACTIVATION_BYTES)
    rows = copies * m.etp * m.plan.moe_imbalance
    # What arrives is in the order of ranks: it is sorted by the rank's own experts, and back afterwards.
    rec.stream("moe", "sort by expert", rows, (h, h), (h, h), 2)
    grouped_products(rec, model, rows)
    rec.stream("moe", "sort back", rows, (h, h), (h, h), 2)
    if not m.plan.moe_fused_dispatch:
        permute(rec, "combine copies", own, h, top)


def permute(rec: Recorder, name: str, own: Number, hidden: int, top: int) -> None:
    """Tokens laid out by expert, or gathered back and summed: each copy is read and written once."""
    spread, met = (hidden, top * hidden), (top * hidden, hidden)
    forward, backward = (spread, met) if name.startswith("dispatch") else (met, spread)
    rec.stream("moe", name, own, forward, backward, PERMUTE_KERNELS)


def exchange(rec: Recorder, sent_bytes: Number) -> None:
    """All-to-all there and back, forward and backward; gathers among the ranks of an expert.

    With `moe_overlap` the exchange of one microbatch runs while another computes (DeepSeek-V3,
    arXiv:2412.19437, section 3.2.1): it stays behind the layer's own products.
    """
    m = rec.micro
    for name in ("dispatch", "combine"):
        sent = group_collective(name, "all_to_all", sent_bytes * m.plan.moe_imbalance, "expert", m.ep)
        sent = replace(sent, dedupe=m.dedupe, fused=m.plan.moe_fused_dispatch)
        if m.plan.moe_overlap:
            rec.phases.forward.behind.append((sent, rec.phases.forward.compute[-1]))
            rec.phases.input_gradient.behind.append((sent, rec.phases.input_gradient.compute[-1]))
            if rec.again("moe"):
                rec.phases.recompute.exposed.append(sent)
        else:
            rec.send("moe", sent, sent)
    whole = sent_bytes * m.etp
    gather = group_collective("gather within expert", "all_gather", whole, "tensor", m.etp)
    scatter = group_collective("scatter within expert", "reduce_scatter", whole, "tensor", m.etp)
    rec.send("moe", gather, gather)
    rec.send("moe", scatter, scatter)


def grouped_products(rec: Recorder, model: ModelSpec, rows: Number) -> None:
    """The experts of a rank: grouped products over their tokens."""
    m, moe = rec.micro, model.moe
    assert moe is not None
    held = moe.experts / m.ep
    width = moe.expert_ffn / m.etp
    gate = 2 if model.gated_mlp else 1
    trains = not m.plan.lora_rank
    each = rows / held
    rec.cast(rows, model.hidden, forward=True)
    fused = m.plan.moe_fused_experts
    narrow = DTYPE_BYTES[m.dtype] < ACTIVATION_BYTES
    if narrow and not m.plan.moe_fused_dispatch:
        # Rows of every expert are filled up to the format's blocks, and cut back afterwards.
        rec.stream(
            "moe", "padding", rows, (2 * model.hidden, 2 * model.hidden), (2 * model.hidden, 2 * model.hidden), 2
        )
    if narrow and not fused:
        convert_by_expert(rec, held)
    rec.product("moe", linear("experts up", each, gate * width, model.hidden, m.dtype, groups=held), trains=trains)
    if not fused:
        if moe.expert_clamp:
            clamp(rec, rows, gate * width)
        activation(rec, rows, width, gated=model.gated_mlp)
        rec.cast(rows, width, forward=True)
        rec.cast(rows, gate * width, forward=False)
    rec.cast(rows, model.hidden, forward=False)
    rec.product("moe", linear("experts down", each, model.hidden, width, m.dtype, groups=held), trains=trains)
    if m.plan.moe_paged_stash:
        stash(rec, rows, model.hidden, gate * width, width)
    if moe.expert_bias and not fused:
        scaled_bias(rec, rows, model.hidden, held)


def convert_by_expert(rec: Recorder, held: Number) -> None:
    """The host converts the operands of up and down products expert by expert: forward, and for both gradients."""
    phases = rec.phases
    for phase in (phases.forward, phases.input_gradient, phases.weight_gradient):
        phase.by_expert = phase.by_expert + 2.0 * held
    if rec.again("moe"):
        phases.recompute.by_expert = phases.recompute.by_expert + 2.0 * held


def stash(rec: Recorder, rows: Number, hidden: int, wide: Number, width: Number) -> None:
    """Inputs of both products, in their own format, and the activation's 16-bit input: copied away and back.

    Whole-step graphs give dropless experts buffers for the worst routing; what is kept is packed into pages
    (Megatron Core, `moe_paged_stash`).
    """
    narrow = DTYPE_BYTES[rec.micro.dtype] / ACTIVATION_BYTES
    kept = narrow * (hidden + width) + wide
    rec.stream("moe", "stash", rows, (kept, kept), (kept, kept), 3)


def clamp(rec: Recorder, rows: Number, width: Number) -> None:
    """Both halves of a gated activation's input clamped and joined again, as separate framework calls.

    Forward the halves are clamped (read, written) and joined (read, written); backward the gradient is masked
    by what was clamped (two read, one written) and the halves' gradients joined (read, written).
    """
    rec.stream("activation", "clamp", rows, (2 * width, 2 * width), (3 * width, 2 * width), 3)


def scaled_bias(rec: Recorder, rows: Number, width: int, experts: Number) -> None:
    """Each expert's output bias, times the routing weight in fp32, added expert by expert and joined.

    Megatron Core, transformer/moe/experts.py, `_apply_bias`. In 16-bit values per row, fp32 counting twice:
    forward the product is written (2), added (3 read, 2 written), joined (2, 2) and narrowed (2, 1);
    backward the gradient is widened (1, 2), narrowed and joined for the output (3, 2), and multiplied and
    summed for the bias and for the routing weight (4 read, 2 written each).
    """
    held = int(max(float(np.max(np.asarray(experts))), 1.0))
    rec.stream("moe", "scaled bias", rows, (7 * width, 7 * width), (12 * width, 8 * width), 2 * held + 2)
