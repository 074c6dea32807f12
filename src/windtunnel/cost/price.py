"""The price of an operator on a device, beside the speed of light.

`seconds_of` and `limit_seconds` take operators whose quantities are numbers or arrays, so the
operator-by-operator price and the step surface come from the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import cast

import numpy as np
import numpy.typing as npt

from windtunnel.cost.attention import decode_attention_seconds, decode_mla_seconds, prefill_attention_line
from windtunnel.cost.collective import (
    Link,
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    link_of,
    reduce_scatter_seconds,
    send_recv_seconds,
)
from windtunnel.cost.device import Device, device_of
from windtunnel.cost.elementwise import elementwise_seconds
from windtunnel.cost.engine_kernels import device_under
from windtunnel.cost.gemm import gemm_seconds
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.moe import moe_seconds
from windtunnel.cost.sparse_attention import index_choice_seconds, index_scores_seconds, sparse_prefill_seconds
from windtunnel.cost.uncertainty import collective_at, device_at
from windtunnel.operators.attention import DecodeAttention, LatentDecodeAttention, PrefillAttention
from windtunnel.operators.collective import Collective, sent_bytes
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.moe import Experts
from windtunnel.operators.operator import ACTIVATION_BYTES, Operator
from windtunnel.operators.sparse_attention import IndexChoice, IndexScores, SparsePrefillAttention
from windtunnel.operators.transfer import Transfer
from windtunnel.specs.deployment import DeploymentSpec

Floats = npt.NDArray[np.float64]

LARGE_ROWS = 8192
"""Rows of a product large enough that its time per row has settled."""
LATENCY_SHARE = 1.0 / 3.0
"""An operator whose speed of light explains less of its time than this is called bound by latency."""

COLLECTIVES = {
    "all_reduce": all_reduce_seconds,
    "all_gather": all_gather_seconds,
    "reduce_scatter": reduce_scatter_seconds,
    "all_to_all": all_to_all_seconds,
}


@dataclass(frozen=True, slots=True)
class Links:
    """The links of a replica.

    Attributes:
        tensor: among the ranks of a stage.
        pipeline: between the ranks of neighbouring stages.
        crossing: share of the stage boundaries at which a node ends.
    """

    tensor: Link
    pipeline: Link
    crossing: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one execution of an operator on one rank.

    Attributes:
        seconds: predicted time.
        bound_by: compute, memory, link or latency.
        limit_s: speed of light: peak rate, full bandwidth for what must come from memory, nothing else.
        source: measured, or calibrated or datasheet (see `Device.provenance`).
        flops: floating-point operations.
        bytes: read and written.
    """

    seconds: float
    bound_by: str
    limit_s: float
    source: str
    flops: float
    bytes: float


def pricing_of(
    deployment: DeploymentSpec, kernels: MeasuredKernels | None = None, at: float = 0.0
) -> tuple[Device, Links]:
    """What prices a deployment's operators, with the device's measured kernels where there are any.

    `at` leans all costs towards an end of their 80 % intervals (see `cost.uncertainty`).
    """
    device = device_at(device_under(device_of(deployment.accelerator), deployment.engine), at)
    if kernels:
        measured = kernels.at_rate(deployment.engine.kernels.measured).leaning(at)
        device = replace(device, measured=measured)
    return device, links_of(deployment, at)


def links_of(deployment: DeploymentSpec, at: float = 0.0) -> Links:
    """The links of one replica, its ranks laid out stage after stage."""
    tp, pp = deployment.plan.ranks_per_stage, deployment.plan.pipeline_parallel
    per_node = max(1, deployment.node.accelerators // tp)
    nodes_ended = pp - 1 if tp > deployment.node.accelerators else -(-pp // per_node) - 1
    crossing = nodes_ended / (pp - 1) if pp > 1 else 0.0
    tensor, pipeline = link_of(deployment, tp), link_of(deployment, tp * pp)
    if at:
        device = device_of(deployment.accelerator)
        tensor = replace(tensor, constants=collective_at(tensor.constants, device, at))
        pipeline = replace(pipeline, constants=collective_at(pipeline.constants, device, at))
    return Links(tensor, pipeline, crossing)


def seconds_of(operator: Operator, device: Device, links: Links, beside_tokens: float = 0.0) -> Floats:
    """Seconds of one execution on one rank; arrays in the operator give an array.

    Measured tables come first; beyond them, and without any, the physical model.

    Args:
        operator: what is executed.
        device, links: what executes it.
        beside_tokens: prompt tokens in the same step, for decode attention that was measured with them.
    """
    found = device.measured.seconds(operator, beside_tokens) if device.measured else None
    if found is not None and not np.isnan(found).any():
        return found
    modelled = modelled_seconds(operator, device, links)
    if beside_tokens and device.unpacked_rate and isinstance(operator, DecodeAttention):
        modelled = np.maximum(modelled, unpacked_seconds(operator, device))
    return modelled if found is None else np.where(np.isnan(found), modelled, found)


def unpacked_seconds(operator: DecodeAttention, device: Device) -> Floats:
    """Decode attention that reads keys and values once per query head (see `EngineSpec.unpacked_rate`)."""
    read = 2.0 * operator.q_heads * operator.head_dim * operator.kv_bytes * np.asarray(operator.context_tokens)
    return np.asarray(read / (device.unpacked_rate * device.bandwidth_bytes_per_s))


@singledispatch
def modelled_seconds(operator: Operator, device: Device, links: Links) -> Floats:
    """Seconds of one execution by the physical model."""
    raise AssertionError(f"no price for {type(operator).__name__}")


@modelled_seconds.register
def _(operator: Matmul, device: Device, links: Links) -> Floats:
    o = operator
    dtypes = (o.weight_dtype, o.compute_dtype)
    if o.per_row:
        each = float(gemm_seconds(LARGE_ROWS, o.n * o.batch, o.k, device, *dtypes)) / LARGE_ROWS
        return np.asarray(o.m, dtype=np.float64) * each
    if o.batch == 1:
        return np.asarray(sum(gemm_seconds(o.m, n, o.k, device, *dtypes) for n in widths_of(o, device)))
    seconds = gemm_seconds(o.m, o.n * o.batch, o.k, device, *dtypes)
    # A batch of products is one product of all their columns, except that each has an input of its own.
    inputs = (o.batch - 1) * o.k * ACTIVATION_BYTES * np.asarray(o.m, dtype=np.float64)
    rate = device.constants.gemm_of(o.compute_dtype).memory_efficiency * device.bandwidth_bytes_per_s
    return seconds + inputs / rate


def widths_of(operator: Matmul, device: Device) -> tuple[int, ...]:
    """Columns of the products that the engine runs: one where it has fused the weights, or several."""
    apart = operator.apart and device.constants.habits.apart
    return operator.apart if apart else (operator.n,)


@modelled_seconds.register
def _(operator: Experts, device: Device, links: Links) -> Floats:
    o = operator
    return moe_seconds(
        o.tokens,
        experts=o.experts,
        local_experts=o.local_experts,
        experts_per_token=o.experts_per_token,
        hidden=o.hidden,
        local_ffn=o.ffn,
        matrices=o.matrices,
        device=device,
        weight_dtype=o.weight_dtype,
        compute_dtype=o.compute_dtype,
    )


@modelled_seconds.register
def _(operator: DecodeAttention, device: Device, links: Links) -> Floats:
    o = operator
    return decode_attention_seconds(
        o.requests,
        o.context_tokens,
        q_heads=o.q_heads,
        kv_heads=o.kv_heads,
        head_dim=o.head_dim,
        kv_bytes=o.kv_bytes,
        device=device,
    )


@modelled_seconds.register
def _(operator: LatentDecodeAttention, device: Device, links: Links) -> Floats:
    o = operator
    return decode_mla_seconds(
        o.requests,
        o.context_tokens,
        heads=o.heads,
        latent_dim=o.latent_dim,
        rope_dim=o.rope_dim,
        kv_bytes=o.kv_bytes,
        device=device,
    )


@modelled_seconds.register
def _(operator: PrefillAttention, device: Device, links: Links) -> Floats:
    o = operator
    line = prefill_attention_line(
        q_heads=o.q_heads,
        kv_heads=o.kv_heads,
        head_dim=o.head_dim,
        v_head_dim=o.v_head_dim,
        kv_bytes=o.kv_bytes,
        device=device,
    )
    return np.asarray(line.seconds(o.requests, o.tokens, o.pairs, o.context_tokens, o.keys))


@modelled_seconds.register
def _(operator: IndexScores, device: Device, links: Links) -> Floats:
    return index_scores_seconds(operator.flops, operator.moved_bytes, device)


@modelled_seconds.register
def _(operator: IndexChoice, device: Device, links: Links) -> Floats:
    return index_choice_seconds(operator.rows, operator.pairs, operator.even, device)


@modelled_seconds.register
def _(operator: SparsePrefillAttention, device: Device, links: Links) -> Floats:
    o = operator
    return sparse_prefill_seconds(
        o.tokens,
        o.pairs,
        topk=o.topk,
        heads=o.heads,
        latent_dim=o.latent_dim,
        rope_dim=o.rope_dim,
        kv_bytes=o.kv_bytes,
        device=device,
    )


@modelled_seconds.register
def _(operator: Elementwise, device: Device, links: Links) -> Floats:
    kernels = operator.launched(device.constants.habits.fused)
    sorting_s = device.constants.sort_bytes * np.asarray(operator.logits) / device.bandwidth_bytes_per_s
    return elementwise_seconds(operator.moved_bytes, device, kernels) + sorting_s


@modelled_seconds.register
def _(operator: Collective, device: Device, links: Links) -> Floats:
    return COLLECTIVES[operator.kind](operator.message_bytes, operator.group, links.tensor)


@modelled_seconds.register
def _(operator: Transfer, device: Device, links: Links) -> Floats:
    """The mean over the stage boundaries: some cross nodes, the others do not."""
    inside = send_recv_seconds(operator.message_bytes, links.pipeline)
    across = send_recv_seconds(operator.message_bytes, links.pipeline, between_nodes=True)
    return (1.0 - links.crossing) * inside + links.crossing * across


def compute_dtype_of(operator: Operator) -> str:
    """Number format in which an operator's FLOPs are done; attention is done in 16 bits, its index in 8."""
    if isinstance(operator, IndexScores):
        return "fp8"
    return operator.compute_dtype if isinstance(operator, Matmul | Experts) else "bf16"


def limit_terms(operator: Operator, device: Device, links: Links) -> tuple[Floats, Floats, Floats]:
    """(compute, memory, network) seconds of one execution at the speed of light.

    Memory counts only what must come from it, weights and cached KV: activations may stay on the chip.
    """
    compute = np.asarray(operator.flops, dtype=np.float64) / device.peak_flops_per_s(compute_dtype_of(operator))
    # A product priced by the row shares the reading of its weights out among many rows.
    stored = 0.0 if isinstance(operator, Matmul) and operator.per_row else operator.stored_bytes
    memory = np.asarray(stored, dtype=np.float64) / device.bandwidth_bytes_per_s
    return compute, memory, _network_limit(operator, links)


def _network_limit(operator: Operator, links: Links) -> Floats:
    message = np.asarray(operator.message_bytes, dtype=np.float64)
    if isinstance(operator, Transfer):
        stage = links.pipeline
        across = message / stage.inter_bytes_per_s if links.crossing else np.zeros_like(message)
        return (1.0 - links.crossing) * message / stage.bytes_per_s + links.crossing * across
    if not isinstance(operator, Collective):
        return np.zeros_like(message)
    link = links.tensor
    inside = min(operator.group, link.ranks_per_node)
    if inside > 1:
        return np.asarray(sent_bytes(operator.kind, message, inside) / link.bytes_per_s)
    return np.asarray(sent_bytes(operator.kind, message, operator.group) / link.inter_bytes_per_s)


def limit_seconds(operator: Operator, device: Device, links: Links) -> Floats:
    """Speed of light of one execution."""
    compute, memory, network = limit_terms(operator, device, links)
    return cast(Floats, np.maximum(np.maximum(compute, memory), network))


def source_of(operator: Operator, device: Device, beside_tokens: float = 0.0) -> str:
    """What prices the operator, whose quantities are numbers: measured, calibrated or datasheet."""
    found = device.measured.seconds(operator, beside_tokens) if device.measured else None
    return device.provenance if found is None or np.isnan(found).any() else "measured"


def price(operator: Operator, device: Device, links: Links, beside_tokens: float = 0.0) -> Cost:
    """Cost of one execution of an operator whose quantities are numbers; see `seconds_of`."""
    seconds = float(seconds_of(operator, device, links, beside_tokens))
    compute, memory, network = (float(term) for term in limit_terms(operator, device, links))
    moved = float(operator.moved_bytes) / device.bandwidth_bytes_per_s if operator.group == 1 else 0.0
    terms = {"compute": compute, "memory": max(memory, moved), "link": network}
    largest = max(terms, key=lambda key: terms[key])
    return Cost(
        seconds=seconds,
        bound_by=largest if terms[largest] >= LATENCY_SHARE * seconds else "latency",
        limit_s=max(compute, memory, network),
        source=source_of(operator, device, beside_tokens),
        flops=float(operator.flops),
        bytes=float(operator.moved_bytes),
    )
