"""Parts of a rank's memory that are there the whole step, and buffers of the parallel methods.

ZeRO (arXiv:1910.02054, section 5): with N ranks, optimiser states (stage 1), gradients (2) and weights
(3) take 1 / N each on a rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.operators.operator import Number
from windtunnel.specs.training import DTYPE_BYTES_TRAINING
from windtunnel.training.memory_layout import MemoryLayout, widest
from windtunnel.training.memory_stages import StageLoad
from windtunnel.training.memory_weights import layer_matrices, stage_matrices
from windtunnel.training.optimizers import Matrix, state_bytes, workspace_bytes

PLACEHOLDER_BYTES = 2.0
"""Unused gradients have the format of the weights' 16-bit copy."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the account: its name, bytes (an array over layouts, or one number), and how it comes about."""

    name: str
    bytes: Number
    how: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in memory through the step, apart from gradients (which some engines free in between)."""

    parts: tuple[Part, ...]
    gradients: Part
    matrices: tuple[Matrix, ...]


def standing(layout: MemoryLayout, load: StageLoad) -> Standing:
    """Weights, master copies, states and gradients of a pipeline rank."""
    base = stage_matrices(layout, load.dense, load.sparse, load.first, load.last)
    trained = adapters(layout, base) if layout.plan.lora_rank else base
    weights = sum((_weight_bytes(layout, matrix) for matrix in base), 0.0)
    parts = [Part("weights", weights, "as forward and backward read them")]
    if layout.plan.lora_rank:
        parts.append(Part("adapters", sum((m.values * 2.0 for m in trained), 0.0), "LoRA, 16 bits"))
    parts += [
        Part("narrow weight copies", _narrow_copies(layout, base), "8- or 4-bit weights, by rows and by columns"),
        Part("second copy of weights", _secondary_bytes(layout, base), "ZeRO++ secondary partition"),
        Part("master weights", _master_bytes(layout, trained), "fp32 copy of the optimiser"),
        Part("optimiser states", _state_bytes(layout, trained), layout.plan.optimizer),
    ]
    return Standing(tuple(parts), Part("gradients", _gradient_bytes(layout, trained), "accumulated"), tuple(trained))


def adapters(layout: MemoryLayout, matrices: list[Matrix]) -> list[Matrix]:
    """LoRA's two thin matrices beside each matrix of the layers (arXiv:2106.09685)."""
    rank = float(layout.plan.lora_rank)
    found = []
    for m in matrices:
        if m.kind == "linear":
            found.append(Matrix(f"{m.name}, adapter down", "linear", rank, m.cols, m.count, m.routed))
            found.append(Matrix(f"{m.name}, adapter up", "linear", m.rows, rank, m.count, m.routed))
    return found


def _shards(layout: MemoryLayout, matrix: Matrix, stage: int) -> Number:
    """Ranks that a ZeRO stage shards a matrix over."""
    if layout.plan.zero_stage < stage:
        return 1.0
    ranks = layout.expert_zero_ranks if matrix.routed else layout.zero_ranks
    near = layout.plan.zero_weight_group
    return np.minimum(near, ranks) if near and stage == 3 else ranks


def _unsharded(layout: MemoryLayout) -> Number:
    """1 where a pipeline makes the engine keep gathered weights and unsharded gradients, else 0."""
    kept = layout.habits.pipeline_unsharded and layout.plan.zero_stage == 3
    return np.where(np.asarray(layout.pp) > 1, 1.0, 0.0) if kept else 0.0


def _weight_bytes(layout: MemoryLayout, matrix: Matrix) -> Number:
    plan, each = layout.plan, layout.weight_bytes
    if plan.offload_weights != "none":
        return 0.0 * matrix.values
    if plan.lora_rank:
        # QLoRA quantises the layers' matrices; embeddings and norms stay in 16 bits.
        each = DTYPE_BYTES_TRAINING[plan.lora_base_dtype] if matrix.kind == "linear" else 2.0
    elif plan.weight_dtype == "int8" and matrix.kind != "linear":
        each = 2.0
    one_copy = layout.habits.sharded_master and plan.master_weights and not plan.lora_rank
    if plan.zero_stage == 3 and one_copy and not plan.zero_weight_group:
        return 0.0 * matrix.values
    return matrix.values * each / _shards(layout, matrix, 3)


def _narrow_copies(layout: MemoryLayout, matrices: list[Matrix]) -> Number:
    """Narrow copies of the layers' matrices beside 16-bit weights; beside narrow weights, the other order alone."""
    plan = layout.plan
    narrow = DTYPE_BYTES_TRAINING[plan.compute_dtype]
    if not layout.habits.narrow_weight_copies or narrow >= 2.0 or plan.offload_weights != "none":
        return 0.0
    copies = 1.0 if layout.weight_bytes < 2.0 else 2.0
    linear = (m.values / _shards(layout, m, 3) for m in matrices if m.kind == "linear" and m.name != "router")
    return copies * narrow * sum(linear, 0.0)


def _secondary_bytes(layout: MemoryLayout, matrices: list[Matrix]) -> Number:
    if not layout.plan.zero_secondary_group:
        return 0.0
    return sum((m.values for m in matrices), 0.0) * layout.weight_bytes / layout.secondary_ranks


def _gradient_bytes(layout: MemoryLayout, matrices: list[Matrix]) -> Number:
    plan = layout.plan
    if plan.offload_optimizer != "none" and layout.engine == "deepspeed":
        # Gradients go to the host as they come, bucket by bucket (ZeRO-Offload, arXiv:2101.06840).
        return 0.0 * matrices[0].values
    if plan.layerwise_update:
        return widest(*(m.each * np.minimum(m.count, 1.0) for m in matrices)) * layout.gradient_bytes
    whole = _unsharded(layout)
    shares = (np.maximum(1.0 / _shards(layout, m, 2), whole) * m.values for m in matrices)
    return layout.gradient_bytes * sum(shares, 0.0)


def _master_bytes(layout: MemoryLayout, matrices: list[Matrix]) -> Number:
    plan = layout.plan
    if not plan.master_weights or plan.offload_optimizer != "none" or layout.weight_bytes >= 4.0:
        return 0.0
    return sum((m.values * 4.0 / _shards(layout, m, 1) for m in matrices), 0.0)


def state_value_bytes(layout: MemoryLayout) -> float:
    """Bytes of an optimiser state's value: fp32 beside fp32 weights, else the weights' own 16 bits."""
    if layout.plan.state_dtype == "bf16":
        return 2.0
    return 4.0 if layout.plan.master_weights or layout.weight_bytes >= 4.0 else 2.0


def _state_bytes(layout: MemoryLayout, matrices: list[Matrix]) -> Number:
    plan = layout.plan
    if plan.offload_optimizer != "none":
        return 0.0
    each, rank = state_value_bytes(layout), plan.optimizer_rank
    states = (state_bytes(plan.optimizer, m, rank=rank, value_bytes=each) / _shards(layout, m, 1) for m in matrices)
    return sum(states, 0.0)


def optimizer_workspace(layout: MemoryLayout, matrices: tuple[Matrix, ...]) -> Part:
    """Room of the largest matrix's update."""
    plan = layout.plan
    if plan.offload_optimizer != "none":
        return Part("optimiser workspace", 0.0)
    held = [np.minimum(m.count, 1.0) * workspace_bytes(plan.optimizer, m, rank=plan.optimizer_rank) for m in matrices]
    return Part("optimiser workspace", widest(*held), "update of the largest matrix")


def layer_values(layout: MemoryLayout, load: StageLoad) -> Number:
    """Weights of the largest layer that the rank holds, in values."""
    model = layout.model
    sizes: list[Number] = [0.0]
    if model.dense_layers:
        sizes.append(np.minimum(load.dense, 1.0) * sum((m.values for m in layer_matrices(layout, False)), 0.0))
    if model.moe_layers:
        sizes.append(np.minimum(load.sparse, 1.0) * sum((m.values for m in layer_matrices(layout, True)), 0.0))
    return widest(*sizes)


def gathered_weights(layout: MemoryLayout, values: Number, stage_values: Number) -> Part:
    """Weights gathered from their shards, or fetched from host or NVMe, ahead of their use.

    Args:
        layout: the layout.
        values: values of the largest layer (or table) at work.
        stage_values: values of the whole pipeline rank.
    """
    plan, habits = layout.plan, layout.habits
    if plan.zero_stage < 3 and plan.offload_weights == "none":
        narrow = plan.weight_dtype == "int8" or (plan.lora_rank and plan.lora_base_dtype in ("int8", "nf4"))
        # Narrow weights are widened one layer at a time.
        return Part("gathered weights", values * 2.0 if narrow else 0.0, "widened to 16 bits for the layer at work")
    alive = values * habits.gathered_layers
    if habits.gathered_values:
        alive = np.maximum(values, np.minimum(alive, habits.gathered_values))
    alive = np.maximum(alive, _unsharded(layout) * stage_values)
    return Part("gathered weights", alive * min(layout.weight_bytes, 2.0), "the layer at work and the next")


def gradient_buckets(layout: MemoryLayout, values: Number) -> Part:
    """Gradients on their way to the ranks (or the host) that keep them."""
    plan, habits = layout.plan, layout.habits
    sharded = plan.zero_stage >= (1 if habits.bucket_values else 2) and not plan.lora_rank
    if not sharded and plan.offload_optimizer == "none":
        return Part("gradient buckets", 0.0)
    waiting = values * habits.reduced_layers
    if habits.bucket_values:
        waiting = np.minimum(waiting, habits.bucket_values * habits.reduced_layers)
    return Part("gradient buckets", waiting * layout.gradient_bytes, "before their reduction")


def placeholder_gradients(layout: MemoryLayout, load: StageLoad) -> Part:
    """One unused gradient per shape of a layer's matrices, kept by kernels that accumulate in place."""
    if not layout.habits.placeholder_gradients or layout.plan.lora_rank:
        return Part("placeholder gradients", 0.0)
    shapes: dict[str, Number] = {}
    for routed, held in ((False, load.dense), (True, load.sparse)):
        if (layout.model.moe_layers if routed else layout.model.dense_layers) == 0:
            continue
        for m in layer_matrices(layout, routed):
            if m.kind == "linear":
                here = np.minimum(held, 1.0) * np.minimum(m.count, 1.0) * m.each
                shapes[m.name] = np.maximum(shapes.get(m.name, 0.0), here)
    return Part("placeholder gradients", sum(shapes.values(), 0.0) * PLACEHOLDER_BYTES, "one per shape of a layer")


def messages(layout: MemoryLayout) -> list[Part]:
    """Pipeline messages and the keys and values that go around the context ring."""
    model, each = layout.model, layout.value_bytes
    hidden = layout.rows * model.hidden * each
    pipeline = np.where(np.asarray(layout.pp) > 1, 2.0 * hidden, 0.0)
    if model.latent is None:
        keys = 2.0 * np.maximum(model.kv_heads / layout.tp, 1.0) * model.head_dim
        query = model.heads / layout.tp * model.head_dim
    else:
        a = model.latent
        query = model.heads / layout.tp * (a.qk_nope_head_dim + a.qk_rope_head_dim)
        keys = query + model.heads / layout.tp * a.v_head_dim
    # Ring: the next block while one is at work, with gradients on the way back. Ulysses: what an all-to-all sends.
    width = 4.0 * keys if layout.plan.context_method == "ring" else query + keys
    context = np.where(np.asarray(layout.cp) > 1, width * layout.tokens * each, 0.0)
    return [
        Part("pipeline messages", pipeline, "an input and a gradient in flight"),
        Part("context messages", context, layout.plan.context_method),
    ]
