"""Data parallelism: gradients reduced, weights gathered, states updated, for one layout or many.

    ZeRO, arXiv:1910.02054   stages 1 to 3;   FSDP, arXiv:2304.11277   stage 3 with prefetch
    HSDP, MiCS arXiv:2205.00119   shards within a group, copies of it reduced among each other
    ZeRO++ arXiv:2306.10209   8-bit weights, 4-bit gradients, a second copy of weights close by

Context-parallel ranks hold the same weights as data-parallel ones and are counted among them.
Ranks that hold the same weights lie TP apart, those that hold the same experts EP x expert TP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.cost.network import (
    Group,
    Network,
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    reduce_scatter_seconds,
)
from windtunnel.operators.operator import Number
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import DTYPE_BYTES_TRAINING
from windtunnel.training.layouts import Layouts
from windtunnel.training.optimizers import Matrix, state_bytes
from windtunnel.training.update import product_flops

QUANTIZED_WEIGHT_BYTES = 1.0
QUANTIZED_GRADIENT_BYTES = 0.5
"""Bytes per value on the wire with ZeRO++'s quantised collectives, scales left out."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values of weights on one rank before data-parallel sharding: dense ones and experts."""

    dense: Number = 0.0
    experts: Number = 0.0

    def __add__(self, other: Values) -> Values:
        return Values(self.dense + other.dense, self.experts + other.experts)

    def __mul__(self, times: Number) -> Values:
        return Values(self.dense * times, self.experts * times)

    @property
    def total(self) -> Number:
        """Both."""
        return self.dense + self.experts


def layer_values(layouts: Layouts, *, routed: bool) -> Values:
    """Weights of a layer on a rank."""
    model = layouts.job.model
    attention = model.attention_parameters() / layouts.tp + model.norm_parameters()
    if not routed:
        return Values(attention + model.mlp_parameters() / layouts.tp)
    assert model.moe is not None
    router = model.hidden * model.moe.experts
    shared = (model.moe_shared_parameters() - router) / layouts.tp + router
    return Values(attention + shared, model.moe.experts * model.expert_parameters() / (layouts.ep * layouts.etp))


def ahead_values(layouts: Layouts) -> Values:
    """Weights of a layer that predicts further ahead: a layer of the last kind, two norms and the joining product."""
    model = layouts.job.model
    joined = Values(2.0 * model.hidden * model.hidden + 2.0 * model.hidden)
    return layer_values(layouts, routed=model.moe_layers > 0) + joined


def table_values(layouts: Layouts) -> Values:
    """Weights of the embedding table, or of the LM head, on a rank that holds it."""
    model: ModelSpec = layouts.job.model
    return Values(model.vocab * (model.embedding_dim or model.hidden) / layouts.tp)


@dataclass(frozen=True, slots=True)
class _Copies:
    """The ranks that hold one set of weights: how many, how far apart, and the shard group among them."""

    ranks: Number
    stride: Number
    shard: Number

    def shards(self, ranks: Number | None = None) -> Group:
        return Group(self.shard if ranks is None else np.minimum(ranks, self.ranks), self.stride)

    def replicas(self) -> Group:
        return Group(self.ranks / self.shard, self.stride * self.shard)


def _copies(layouts: Layouts) -> tuple[_Copies, _Copies]:
    group = layouts.plan.zero_group

    def one(ranks: Number, stride: Number) -> _Copies:
        shard = np.minimum(group, ranks) if group else ranks
        return _Copies(ranks, stride, shard if layouts.plan.zero_stage else np.ones_like(np.asarray(ranks)))

    return one(layouts.weight_ranks, layouts.tp), one(layouts.expert_ranks, layouts.ep * layouts.etp)


def gather_seconds(layouts: Layouts, values: Values, *, backward: bool = False) -> Number:
    """Seconds to gather sharded weights; the backward pass may have a second copy close by."""
    plan, network = layouts.plan, layouts.network()
    each = QUANTIZED_WEIGHT_BYTES if plan.quantized_weights_comm else DTYPE_BYTES_TRAINING[plan.weight_dtype]
    near = (plan.zero_secondary_group if backward else 0) or plan.zero_weight_group or None
    total: Number = 0.0
    for amount, copies in zip((values.dense, values.experts), _copies(layouts), strict=True):
        total = total + _bucketed(layouts, amount, each, copies.shards(near), network, "all_gather")
    return total


def reduce_seconds(layouts: Layouts, values: Values) -> Number:
    """Seconds to reduce gradients: scattered within the shard group, summed over its copies."""
    return scatter_seconds(layouts, values) + replica_seconds(layouts, values)


def scatter_seconds(layouts: Layouts, values: Values) -> Number:
    """Seconds to reduce gradients within the shard group, each rank keeping its share."""
    network, each = layouts.network(), _gradient_bytes(layouts)
    total: Number = 0.0
    for amount, copies in zip((values.dense, values.experts), _copies(layouts), strict=True):
        if layouts.plan.quantized_gradients_comm:
            total = total + _quantized_reduce_seconds(amount * QUANTIZED_GRADIENT_BYTES, copies.shards(), network)
        else:
            total = total + _bucketed(layouts, amount, each, copies.shards(), network, "reduce_scatter")
    return total


def replica_seconds(layouts: Layouts, values: Values) -> Number:
    """Seconds to sum shards over the copies of the shard group, once per step (MiCS, section 3.4)."""
    network, each = layouts.network(), _gradient_bytes(layouts)
    total: Number = 0.0
    for amount, copies in zip((values.dense, values.experts), _copies(layouts), strict=True):
        total = total + _bucketed(layouts, amount / copies.shard, each, copies.replicas(), network, "all_reduce")
    return total


def _quantized_reduce_seconds(size: Number, group: Group, network: Network) -> Number:
    """Two all-to-alls of 4-bit blocks in place of a ring: inside the node, where gradients are summed, then of
    what is left between nodes (ZeRO++, section 3.3)."""
    here, nodes = network.per_node(group), network.nodes(group)
    inside = all_to_all_seconds(size, Group(here, group.stride), network)
    return inside + all_to_all_seconds(size / here, Group(nodes, np.asarray(group.stride) * here), network)


def _gradient_bytes(layouts: Layouts) -> float:
    return 4.0 if layouts.plan.grad_dtype == "fp32" else 2.0


def _bucketed(layouts: Layouts, amount: Number, each: float, group: Group, network: Network, kind: str) -> Number:
    """A tensor sent in buckets, so that what is ready need not wait for the rest."""
    price = {"all_gather": all_gather_seconds, "all_reduce": all_reduce_seconds}.get(kind, reduce_scatter_seconds)
    count = buckets(layouts, amount)
    if layouts.engine.owner_broadcasts and kind != "all_reduce":
        count = np.maximum(count, group.size)
    return count * price(np.asarray(amount) * each / count, group, network)


def buckets(layouts: Layouts, amount: Number) -> Number:
    """Buckets that values are sent in; FSDP's units are layers, which callers pass one by one."""
    size = layouts.engine.bucket_values
    if layouts.plan.zero_stage == 3:
        return np.ones_like(np.asarray(amount, dtype=np.float64))
    return np.maximum(np.ceil(np.asarray(amount) / size), 1.0)


def optimizer_seconds(layouts: Layouts, values: Values) -> Number:
    """Seconds of the update on a rank's share: bound by reading and writing the states once.

    Gradients are read for their norm and again for the update, and their buffer cleared.
    """
    plan, device = layouts.plan, layouts.device()
    dense, experts = _copies(layouts)
    share = values.dense / dense.shard + values.experts / experts.shard
    if plan.lora_rank:
        model = layouts.job.model
        share = share * min(1.0, 2.0 * plan.lora_rank / model.hidden)
    gradient = 4.0 if plan.grad_dtype == "fp32" else 2.0
    state = state_value_bytes(layouts)
    master = 4.0 if plan.master_weights else 0.0
    weight = DTYPE_BYTES_TRAINING[plan.weight_dtype]
    each = 2.0 * gradient + 2.0 * (state + master) + weight * (1.0 if master else 2.0)
    cleared = values.total / (dense.shard if plan.zero_stage >= 2 else 1.0) * gradient
    rate = device.constants.elementwise_efficiency * device.bandwidth_bytes_per_s
    return (share * each + cleared) / rate + _projections(layouts, share)


def _typical_matrix(layouts: Layouts) -> Matrix:
    """A matrix of the model's MLP, which stands for its weights."""
    model = layouts.job.model
    width = model.ffn or (model.moe.expert_ffn if model.moe else model.hidden)
    return Matrix("mlp", "linear", float(model.hidden), float(width))


def state_value_bytes(layouts: Layouts) -> float:
    """Bytes of optimiser states per weight."""
    matrix = _typical_matrix(layouts)
    return float(state_bytes(layouts.plan.optimizer, matrix, rank=layouts.plan.optimizer_rank) / matrix.values)


def _projections(layouts: Layouts, share: Number) -> Number:
    """Products of optimisers that work in other spaces (`training.update`), at the matrix units' rate."""
    plan, device, matrix = layouts.plan, layouts.device(), _typical_matrix(layouts)
    each = float(product_flops(plan.optimizer, matrix, plan.optimizer_rank) / matrix.values)
    rate = device.constants.gemm_of("bf16").compute_efficiency * device.peak_flops_per_s("bf16")
    return share * each / rate
