"""The ends of a model in a training microbatch: embedding, LM head and loss, layers that predict further ahead."""

from __future__ import annotations

from windtunnel.operators.collective import Kind
from windtunnel.operators.operator import ACTIVATION_BYTES
from windtunnel.operators.training import LayerPhases, Phase, group_collective, linear
from windtunnel.operators.training_layer import Microbatch, Recorder, behind, norm
from windtunnel.specs.model import ModelSpec


def embedding_phases(model: ModelSpec, micro: Microbatch) -> LayerPhases:
    """Lookup forward; backward, gradients are added into the table's rows."""
    rec = Recorder(micro)
    h = model.hidden
    rec.stream("embedding", "embedding", micro.tokens, (h, h), (h, 2 * h))
    message = micro.tokens * h * ACTIVATION_BYTES
    kind: Kind = "reduce_scatter" if micro.plan.sequence_parallel else "all_reduce"
    rec.send("embedding", group_collective("embedding", kind, message, "tensor", micro.tp), None)
    return LayerPhases(rec.phases.forward, rec.phases.input_gradient, rec.phases.weight_gradient, Phase())


def head_phases(model: ModelSpec, micro: Microbatch) -> LayerPhases:
    """Final norm, LM head over all positions and the loss, sharded over the vocabulary.

    The loss reads 16-bit logits and writes their gradient in place when fused; else logits are widened
    to fp32, their exponentials written and read, and the gradient narrowed again.
    """
    rec = Recorder(micro)
    norm(rec, model)
    columns = model.vocab / micro.tp
    plain = "bf16" if micro.dtype not in ("fp32", "tf32", "fp16") else micro.dtype
    product = linear("lm head", micro.tokens, columns, model.hidden, plain)
    _, weight = rec.product("head", product, trains=not micro.plan.lora_rank)
    message = micro.tokens * model.hidden * ACTIVATION_BYTES
    kind: Kind = "reduce_scatter" if micro.plan.sequence_parallel else "all_reduce"
    if micro.plan.sequence_parallel:
        rec.send("head", group_collective("gather for lm head", "all_gather", message, "tensor", micro.tp), None)
    sent = group_collective("lm head, gradient", kind, message, "tensor", micro.tp)
    behind(rec.phases.weight_gradient, sent, weight, micro.async_backward)
    if micro.plan.fused_kernels:
        rec.stream("head", "loss", micro.tokens, (2 * columns, columns), (columns, columns))
    else:
        rec.stream("head", "loss", micro.tokens, (5 * columns, 4 * columns), (5 * columns, 3 * columns))
    return LayerPhases(rec.phases.forward, rec.phases.input_gradient, rec.phases.weight_gradient, Phase())


def ahead_phases(model: ModelSpec, micro: Microbatch) -> LayerPhases:
    """What stands before a multi-token-prediction layer: two norms, and the product that joins the hidden state
    with the next token's embedding (DeepSeek-V3, arXiv:2412.19437, equation 21)."""
    rec = Recorder(micro)
    norm(rec, model)
    norm(rec, model)
    rec.product("mtp", linear("hidden and embedding joined", micro.rows, model.hidden, 2 * model.hidden, micro.dtype))
    return rec.phases
