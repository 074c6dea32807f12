"""Operators of LoRA adapters: two narrow products beside every adapted matrix.

    y += (x A) B,   A (inputs, rank), B (rank, outputs)

As vLLM runs them: one kernel shrinks the input of all slices of a fused matrix (query, key and value;
gate and up), one expands and adds. Under TP the half of an adapter on the sharded side of its matrix is
sharded, the other half is whole on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.operators.elementwise import elementwise
from windtunnel.operators.matmul import matmul
from windtunnel.operators.operator import Number, Operator
from windtunnel.operators.shard import plain_dtype, shard
from windtunnel.specs.lora import LoraSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec


@dataclass(frozen=True, slots=True)
class Adapted:
    """An adapted matrix on one rank: its fused slices share the input and have a pair (A, B) each.

    Attributes:
        name: of the matrix.
        layers: layers that have it.
        inputs: rows of A on the rank.
        outputs: columns of B on the rank, all slices.
        slices: pairs.
    """

    name: str
    layers: int
    inputs: int
    outputs: int
    slices: int = 1


def adapted_matrices(model: ModelSpec, plan: PlanSpec, spec: LoraSpec) -> tuple[Adapted, ...]:
    """The matrices that adapters change, as one rank holds them."""
    part = shard(model, plan)
    q, kv = part.q_heads * model.head_dim, part.kv_heads * model.head_dim
    found = [
        Adapted("qkv", model.attention_layers, model.hidden, q + 2 * kv, 3),
        Adapted("attention out", model.attention_layers, q, model.hidden),
    ]
    if spec.targets == "all-linear":
        inputs = model.mlp_matrices - 1
        for name, layers, ffn in (
            ("mlp", model.dense_layers, part.ffn),
            ("shared expert", model.moe_layers, part.shared_ffn),
        ):
            if layers and ffn:
                found.append(Adapted(f"{name} up", layers, model.hidden, inputs * ffn, inputs))
                found.append(Adapted(f"{name} down", layers, ffn, model.hidden))
    return tuple(found)


def adapter_values(model: ModelSpec, plan: PlanSpec, spec: LoraSpec) -> int:
    """Values of one adapter on one rank."""
    return sum(
        one.layers * spec.rank * (one.slices * one.inputs + one.outputs) for one in adapted_matrices(model, plan, spec)
    )


def adapter_operators(model: ModelSpec, plan: PlanSpec, spec: LoraSpec, tokens: Number) -> list[Operator]:
    """Shrinking and expanding the tokens that use an adapter, its weights read once; see `further_adapters`."""
    plain = plain_dtype(plan)
    found: list[Operator] = []
    for one in adapted_matrices(model, plan, spec):
        rank = one.slices * spec.rank
        found += [
            matmul(f"{one.name}, adapter shrinks", "tokens", one.layers, tokens, rank, one.inputs, plain, plain),
            matmul(f"{one.name}, adapter expands", "tokens", one.layers, tokens, one.outputs, spec.rank, plain, plain),
            # What is added to is read; the product itself writes it.
            elementwise(
                f"{one.name}, adapter adds", "tokens", one.layers, tokens, read=one.outputs, written=0, kernels=0
            ),
        ]
    return found


def further_adapters(model: ModelSpec, plan: PlanSpec, spec: LoraSpec, adapters: Number) -> Operator:
    """Reading the weights of so many more adapters in the same kernels."""
    read = adapter_values(model, plan, spec)
    return elementwise("further adapters", "tokens", 1, adapters, read=read, written=0, kernels=0)
