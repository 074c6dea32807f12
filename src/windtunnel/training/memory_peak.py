"""The moments of a step at which a pipeline rank's memory may peak, and what is alive at each.

Backward of a layer: every live microbatch is kept, one layer is computed again and its gradients are
made. Loss: the same, with logits and their gradient, on ranks that hold a head. End of the backward
pass: gradients of all weights, and the embedding's dense gradient. Optimiser step: no activations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.operators.operator import Number
from windtunnel.training.memory_layer import LayerMemory, kept_bytes, layer_memory
from windtunnel.training.memory_layout import MemoryLayout, runtime_memory
from windtunnel.training.memory_parts import (
    PLACEHOLDER_BYTES,
    Part,
    Standing,
    gathered_weights,
    gradient_buckets,
    layer_values,
    messages,
    optimizer_workspace,
    placeholder_gradients,
    standing,
)
from windtunnel.training.memory_stages import StageLoad

Moments = dict[str, list[Part]]


def moments(layout: MemoryLayout, load: StageLoad) -> Moments:
    """What is alive at each moment that may be the peak."""
    held = standing(layout, load)
    always = [*held.parts, Part("matrix workspace", runtime_memory().workspace_bytes, "of the matrix library")]
    placeholders = placeholder_gradients(layout, load)
    early = _early_gradients(layout, held)
    live = _activations(layout, load)
    values = layer_values(layout, load)
    whole = sum((m.values for m in held.matrices), 0.0)
    gathered = gathered_weights(layout, values, whole)
    layer = _layer_parts(layout, load)
    return {
        "backward of a layer": [*always, early, *live, *layer, gathered, placeholders, *messages(layout)],
        "loss": [*always, early, *live, *_loss_parts(layout, load), gathered, placeholders],
        "head backward": [*always, early, *live, *_head_parts(layout, load, whole), placeholders],
        "end of the backward pass": [
            *always,
            held.gradients,
            *_activations(layout, load, less=1.0),
            _embedding_gradient(layout, load),
            placeholders,
        ],
        "optimiser step": [*always, held.gradients, optimizer_workspace(layout, held.matrices), placeholders],
    }


def total(parts: list[Part]) -> Number:
    """Sum of parts."""
    return sum((part.bytes for part in parts), 0.0)


def peak_of(layout: MemoryLayout, load: StageLoad) -> npt.NDArray[np.float64]:
    """Live tensors at the highest moment, for arrays of loads or layouts; a head's moments only where there is one."""
    worst: npt.NDArray[np.float64] = np.zeros(np.shape(load.last))
    for name, parts in moments(layout, load).items():
        sizes = np.broadcast_to(np.asarray(total(parts), dtype=np.float64), worst.shape)
        if name in ("loss", "head backward"):
            sizes = np.where(np.asarray(load.last) > 0, sizes, 0.0)
        np.maximum(worst, sizes, out=worst)
    return worst


def _early_gradients(layout: MemoryLayout, held: Standing) -> Part:
    """Gradients at the first backward pass: there already in a flat buffer or from an earlier microbatch."""
    if layout.habits.flat_gradients:
        return held.gradients
    there = np.where(np.asarray(layout.microbatches) > 1, 1.0, 0.0)
    return Part("gradients", held.gradients.bytes * there, held.gradients.how)


def _kinds(layout: MemoryLayout, load: StageLoad) -> list[tuple[LayerMemory, Number, Number, Number]]:
    """(layer, how many held, live, late) of each kind of layer that the model has."""
    model = layout.model
    found = []
    if model.dense_layers:
        found.append((layer_memory(layout, routed=False), load.dense, load.live_dense, load.late_dense))
    if model.moe_layers:
        found.append((layer_memory(layout, routed=True), load.sparse, load.live_sparse, load.late_sparse))
    return found


def recomputed_share(layout: MemoryLayout, load: StageLoad) -> Number:
    """Share of a rank's layers that the plan's recomputation applies to."""
    some = layout.plan.recompute_layers
    return np.minimum(some / np.maximum(load.layers, 1.0), 1.0) if some else 1.0


def _activations(layout: MemoryLayout, load: StageLoad, less: float = 0.0) -> list[Part]:
    """Kept tensors of all live microbatches (`less` microbatches fewer)."""
    share = recomputed_share(layout, load)
    kept: Number = 0.0
    late: Number = 0.0
    for layer, held, live, waiting in _kinds(layout, load):
        alive = np.maximum(live - less * held, 0.0)
        kept = kept + alive * (share * kept_bytes(layout, layer) + (1.0 - share) * layer.full_bytes)
        late = late + waiting * layer.weight_gradient_bytes
    if layout.plan.dropout:
        kept = kept + np.maximum(load.live_first - less, 0.0) * layout.rows * layout.model.hidden
    if layout.plan.offload_activations != "none":
        kept = np.minimum(kept, 2.0 * kept / np.maximum(load.live_dense + load.live_sparse, 1.0))
    return [
        Part("activations", kept, "kept for the backward pass, all live microbatches"),
        Part("activations for weight gradients", late, "inputs and output gradients that still wait"),
    ]


def _layer_parts(layout: MemoryLayout, load: StageLoad) -> list[Part]:
    """What one layer's backward pass takes."""
    again: Number = 0.0
    working: Number = 0.0
    for layer, held, _, _ in _kinds(layout, load):
        there = np.minimum(held, 1.0)
        again = np.maximum(again, there * (layer.full_bytes - kept_bytes(layout, layer)))
        working = np.maximum(working, there * layer.working_bytes)
    return [
        Part("computed again", np.maximum(again, 0.0), "one layer"),
        Part("activation gradients", working, "one layer"),
        gradient_buckets(layout, layer_values(layout, load)),
    ]


def head_kept_bytes(layout: MemoryLayout) -> Number:
    """Final norm's input, head's input and logits of one microbatch (Korthikanti et al., section 4.3)."""
    hidden = 2.0 * layout.rows * layout.model.hidden * layout.value_bytes
    fused = _fused_loss(layout)
    logit = fused * layout.habits.loss_saved_bytes + (1.0 - fused) * 4.0
    return hidden + layout.tokens * layout.vocab * logit


def _fused_loss(layout: MemoryLayout) -> Number:
    """1 where the loss runs fused, else 0."""
    if not layout.plan.fused_kernels:
        return 0.0
    return 1.0 if layout.habits.tensor_parallel_loss_fused else np.where(np.asarray(layout.tp) > 1, 0.0, 1.0)


def _loss_parts(layout: MemoryLayout, load: StageLoad) -> list[Part]:
    """Logits of the live microbatches, and the loss's gradient with its copies, on ranks with a head."""
    habits = layout.habits
    there, fused = np.minimum(load.last, 1.0), _fused_loss(layout)
    working = fused * habits.loss_working_bytes + (1.0 - fused) * habits.plain_loss_working_bytes
    return [
        Part("logits", _logits_bytes(layout, load), "and the head's inputs"),
        Part("gradient of logits", there * layout.tokens * layout.vocab * working, "with the loss's own copies"),
    ]


def _logits_bytes(layout: MemoryLayout, load: StageLoad) -> Number:
    """Logits and the head's inputs of the live microbatches, of all of them where the engine keeps outputs."""
    kept = load.live_last * head_kept_bytes(layout)
    if layout.habits.pipeline_outputs:
        others = np.maximum(layout.microbatches - load.live_last, 0.0)
        outputs = others * layout.tokens * layout.vocab * layout.value_bytes
        kept = kept + np.where(np.asarray(layout.pp) > 1, np.minimum(load.last, 1.0) * outputs, 0.0)
    return kept


def _head_parts(layout: MemoryLayout, load: StageLoad, stage_values: Number) -> list[Part]:
    """The head's products backward: the gradient of logits in 16 bits, and its weights' gradient."""
    there = np.minimum(load.last, 1.0)
    hidden = 2.0 * layout.tokens * layout.model.hidden * layout.value_bytes
    gradient = layout.tokens * layout.vocab * layout.value_bytes + hidden
    table = there * layout.vocab * (layout.model.embedding_dim or layout.model.hidden)
    found = [
        Part("logits", _logits_bytes(layout, load), "and the head's inputs"),
        Part("gradient of logits", there * gradient, "in the activations' format"),
        gathered_weights(layout, table, stage_values),
        gradient_buckets(layout, table),
    ]
    if layout.habits.placeholder_gradients and not layout.plan.lora_rank:
        found.append(Part("head's gradient", table * PLACEHOLDER_BYTES, "before it is accumulated"))
    return found


def _embedding_gradient(layout: MemoryLayout, load: StageLoad) -> Part:
    """The lookup's dense gradient, before it is accumulated."""
    if layout.plan.lora_rank:
        return Part("embedding's gradient", 0.0)
    table = layout.vocab * (layout.model.embedding_dim or layout.model.hidden)
    return Part("embedding's gradient", np.minimum(load.first, 1.0) * table * layout.value_bytes, "dense")
