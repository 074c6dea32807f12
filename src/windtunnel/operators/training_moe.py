"""The routed MLP of a training microbatch: router, dispatch, grouped products, combination.

Each rank routes its own tokens. With experts spread over EP ranks, copies of the tokens go to them
and back by all-to-all (GShard, arXiv:2006.16668); with TP inside an expert, the ranks of an expert's
group gather each other's tokens first. Routing is even up to the plan's `moe_imbalance`: the
busiest rank holds everybody up.
"""

from __future__ import annotations

from dataclasses import replace

from windtunnel.operators.operator import ACTIVATION_BYTES, Number
from windtunnel.operators.training import group_collective, linear
from windtunnel.operators.training_layer import Recorder, activation, dense_mlp
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
    permute(rec, "dispatch copies", own, h, top)
    exchange(rec, copies * h * ACTIVATION_BYTES)
    rows = copies * m.etp * m.plan.moe_imbalance
    # What arrives is in the order of ranks: it is sorted by the rank's own experts, and back afterwards.
    rec.stream("moe", "sort by expert", rows, (h, h), (h, h), 2)
    grouped_products(rec, model, rows)
    rec.stream("moe", "sort back", rows, (h, h), (h, h), 2)
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
        sent = replace(sent, dedupe=m.dedupe)
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
    rec.product("moe", linear("experts up", each, gate * width, model.hidden, m.dtype, groups=held), trains=trains)
    activation(rec, rows, width, gated=model.gated_mlp)
    rec.cast(rows, model.hidden, forward=False)
    rec.product("moe", linear("experts down", each, model.hidden, width, m.dtype, groups=held), trains=trains)
