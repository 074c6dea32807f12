"""Seconds of the operators of a training layer, many layouts at once.

Products are collected by number format and priced in one call of the tile model (`cost/gemm.py`).
On top of what kernels measured alone would take stands one constant per device, the share of the
rate that dense products sustain under the board's power limit (attention, which waits for its
exponentials, stays below it), and the processors that a collective takes from the products beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field

from windtunnel.cost.attention import prefill_attention_line
from windtunnel.cost.device import Device, device_of
from windtunnel.cost.elementwise import elementwise_seconds
from windtunnel.cost.gemm import compute_seconds
from windtunnel.cost.network import (
    Group,
    Network,
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    reduce_scatter_seconds,
)
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.operator import Number, Operator
from windtunnel.operators.training import Attention, GroupCollective, Phase
from windtunnel.specs.fields import Seconds, Source, Spec
from windtunnel.specs.load import build, catalogue_folder, resolve

Floats = npt.NDArray[np.float64]


class EngineHabits(Spec):
    """What a training engine costs and does."""

    launch_s: Seconds = Field(ge=0, description="host time to launch a kernel")
    expert_launch_s: Seconds = Field(
        0.0, ge=0, description="host time beside the launch, per expert of a grouped product in a narrow format"
    )
    step_s: Seconds = Field(ge=0, description="host time per step that nothing hides: data, logging, clipping")
    bucket_values: float = Field(gt=0, description="values gathered or reduced in one collective")
    owner_broadcasts: bool = Field(
        False,
        description="each shard is reduced to and broadcast from its owner, one after another, not gathered at once",
    )
    early_stop: bool = Field(
        False, description="computing a layer again stops with what its gradients need: without its last product"
    )
    async_tensor_backward: bool = Field(description="TP collectives of input gradients run behind weight gradients")


class FlashRate(Spec):
    """Rates of an older generation of FlashAttention over those of the device's newest."""

    forward: float = Field(gt=0, le=1)
    backward: float = Field(gt=0, le=1)


class TrainingConstants(Spec):
    """Constants of training; `catalogue/training.yaml`."""

    sustained: dict[str, dict[str, float]] = Field(
        description="share of the calibrated rate kept over a step, by device or family and arithmetic"
    )
    sustained_on: dict[str, str] = Field(description="the device that a family's share was fitted on")
    flash: dict[str, dict[int, FlashRate]] = Field(description="older generations of FlashAttention, by family")
    attention_backward_rate: float = Field(gt=0, le=1, description="rate of attention's gradient over its forward's")
    attention_fp8_rate: float = Field(gt=0, description="rate of 8-bit attention over 16-bit")
    attention_sink_rate: float = Field(gt=0, le=1, description="rate of attention with sinks outside newest kernels")
    collective_processors: float = Field(ge=0, description="processors that a running collective takes")
    engines: dict[str, EngineHabits]
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def training_constants() -> TrainingConstants:
    """The catalogue's constants."""
    text = catalogue_folder("training.yaml").read_text(encoding="utf-8")
    return build(TrainingConstants, yaml.safe_load(text), "catalogue/training.yaml")


@lru_cache(maxsize=256)
def sustained_rate(device: Device, dtype: str) -> float:
    """Share of the calibrated rate that the device keeps over a step: its own, its family's, or the default.

    A device that takes its family's has another power limit than the one it was fitted on: dynamic
    power grows with the cube of the clock, so the rate scales with the cube root of watts per peak FLOP.
    """
    known = training_constants().sustained
    for name in (device.accelerator.name, device.accelerator.architecture, "default"):
        found = known.get(name, {})
        if dtype in found or "default" in found:
            rate = found.get(dtype, found.get("default", 1.0))
            return min(rate * _power_scale(device, name), 1.0)
    return 1.0


def _power_scale(device: Device, family: str) -> float:
    reference = training_constants().sustained_on.get(family)
    if reference is None or reference == device.accelerator.name:
        return 1.0
    other = device_of(resolve("accelerators", reference))
    watts, fitted = ((one.accelerator.max_w - one.accelerator.idle_w) for one in (device, other))
    ratio = watts / device.peak_flops_per_s("bf16") / (fitted / other.peak_flops_per_s("bf16"))
    return float(ratio ** (1.0 / 3.0))


def flash_rate(device: Device, version: int, *, backward: bool) -> float:
    """Rate of a generation of FlashAttention over the device's newest."""
    found = training_constants().flash.get(device.accelerator.architecture, {}).get(version)
    if found is None:
        return 1.0
    return found.backward if backward else found.forward


@dataclass(frozen=True, slots=True)
class Cluster:
    """What prices a layer: a device, the network and the degrees that place its groups."""

    device: Device
    network: Network
    tp: Number
    cp: Number
    ep: Number
    etp: Number

    @property
    def contention(self) -> float:
        """Share of the processors that a collective takes from what runs beside it."""
        return min(training_constants().collective_processors / self.device.processors, 0.9)

    def group(self, axis: str, ranks: Number) -> Group:
        """Ranks of an axis in Megatron-LM's order: tensor fastest, then context; experts over all of a stage."""
        return Group(ranks, {"tensor": 1, "context": self.tp, "expert": self.etp}[axis])


@dataclass(slots=True)
class PhaseSeconds:
    """Seconds of one phase of a layer.

    Attributes:
        compute: the compute stream alone.
        tensor, context, expert: what collectives of each axis add to it.
        kernels: kernels launched.
        experts: products whose operands the host converts expert by expert.
        flops: operations of the matrix units.
        moved_bytes: device memory read and written.
        sent_bytes: bytes sent to other ranks.
    """

    compute: Number = 0.0
    tensor: Number = 0.0
    context: Number = 0.0
    expert: Number = 0.0
    kernels: Number = 0.0
    experts: Number = 0.0
    flops: Number = 0.0
    moved_bytes: Number = 0.0
    sent_bytes: Number = 0.0

    @property
    def total(self) -> Number:
        """All of it."""
        return self.compute + self.tensor + self.context + self.expert

    def __add__(self, other: PhaseSeconds) -> PhaseSeconds:
        return PhaseSeconds(*(getattr(self, name) + getattr(other, name) for name in PhaseSeconds.__slots__))

    def __mul__(self, times: Number) -> PhaseSeconds:
        return PhaseSeconds(*(getattr(self, name) * times for name in PhaseSeconds.__slots__))


def phase_seconds(phases: list[Phase], cluster: Cluster) -> list[PhaseSeconds]:
    """Seconds of several phases, their products priced together."""
    computed: list[Operator] = [one for phase in phases for one in phase.compute]
    seconds = compute_stream_seconds(computed, cluster.device)
    return [_phase(phase, seconds, cluster) for phase in phases]


def compute_stream_seconds(operators: list[Operator], device: Device) -> dict[int, Number]:
    """Seconds of each operator, by its identity."""
    found: dict[int, Number] = {}
    products: dict[str, list[Matmul]] = {}
    for one in operators:
        if isinstance(one, Matmul):
            products.setdefault(one.compute_dtype, []).append(one)
        elif isinstance(one, Attention):
            found[id(one)] = attention_seconds(one, device)
        else:
            assert isinstance(one, Elementwise)
            found[id(one)] = elementwise_seconds(one.moved_bytes, device, one.kernels)
    for dtype, same in products.items():
        found.update(zip((id(one) for one in same), _products(same, device, dtype), strict=True))
    return found


def _products(same: list[Matmul], device: Device, dtype: str) -> Floats:
    columns = [[getattr(one, name) for one in same] for name in ("m", "n", "k", "batch", "moved_bytes")]
    shape = np.broadcast_shapes(*(np.shape(value) for column in columns for value in column))
    m, n, k, batch, moved = (
        np.stack([np.broadcast_to(np.asarray(value, dtype=np.float64), shape) for value in column])
        for column in columns
    )
    constants = device.constants.gemm_of(dtype)
    compute = compute_seconds(m, n * batch, k, device, dtype, dtype) / sustained_rate(device, dtype)
    memory = moved / (constants.memory_efficiency * device.bandwidth_bytes_per_s)
    large, small = np.maximum(compute, memory), np.minimum(compute, memory)
    blended: Floats = large * (1.0 + (small / large) ** constants.blend) ** (1.0 / constants.blend)
    return blended + constants.launch_s + constants.latency_depth_s * k / 1000.0


def attention_seconds(one: Attention, device: Device) -> Number:
    """Seconds of attention: calibrated FlashAttention, or products and the passes over the scores."""
    constants = training_constants()
    rate = constants.attention_fp8_rate if one.dtype == "fp8" else 1.0
    rate *= flash_rate(device, one.version, backward=one.backward)
    rate *= constants.attention_sink_rate if one.slow_sinks else 1.0
    if not one.flash:
        gemm = device.constants.gemm_of("bf16").compute_efficiency * device.peak_flops_per_s("bf16")
        scores = elementwise_seconds(one.moved_bytes, device, 6 if one.backward else 3)
        return one.flops / (gemm * rate) + scores
    line = prefill_attention_line(
        q_heads=np.asarray(one.q_heads, dtype=np.float64),
        kv_heads=np.asarray(one.kv_heads, dtype=np.float64),
        head_dim=np.asarray(one.head_dim, dtype=np.float64),
        v_head_dim=np.asarray(one.v_head_dim, dtype=np.float64),
        kv_bytes=2.0,
        device=device,
        caches=False,
    )
    keys = 2.0 * one.pairs / one.tokens  # of a sequence's last token
    work = line.prompt * one.tokens / keys + line.token * one.tokens + line.pair * one.pairs + line.key * keys
    times = 2.5 / constants.attention_backward_rate if one.backward else 1.0
    return line.call + times * work / rate + line.context * one.context_tokens


def collective_seconds(one: GroupCollective, cluster: Cluster) -> Floats:
    """Seconds of a layer's collective when nothing runs beside it."""
    group = cluster.group(one.axis, one.ranks)
    if one.kind == "all_to_all":
        return all_to_all_seconds(one.message_bytes, group, cluster.network, one.dedupe, fused=one.fused)
    price = {"all_reduce": all_reduce_seconds, "all_gather": all_gather_seconds}.get(one.kind, reduce_scatter_seconds)
    return price(one.message_bytes, group, cluster.network)


def beside_seconds(compute: Number, sent: Number, contention: float) -> Number:
    """Seconds of computing and sending at once: the collective takes processors while it runs."""
    return np.maximum(sent, compute + contention * np.minimum(sent, compute / (1.0 - contention)))


def pieced_seconds(compute: Number, sent: Number, pieces: Number) -> Number:
    """A product and its collective cut into pieces: a pipeline of two stages."""
    each = np.maximum(pieces, 1.0)
    return (compute + sent) / each + (each - 1.0) * np.maximum(compute, sent) / each


def ring_seconds(compute: Number, sent: Number, ranks: Number) -> Number:
    """Ring attention: each of `ranks` parts computes while the next one's keys arrive."""
    part = compute / ranks
    hop = np.divide(sent, np.maximum(np.asarray(ranks, dtype=np.float64) - 1.0, 1.0))
    return part + (ranks - 1.0) * np.maximum(part, hop)


def _phase(phase: Phase, seconds: dict[int, Number], cluster: Cluster) -> PhaseSeconds:
    total = PhaseSeconds(experts=phase.by_expert)
    for one in phase.compute:
        total.compute = total.compute + seconds[id(one)]
        total.kernels = total.kernels + launches(one)
        total.flops = total.flops + one.flops
        total.moved_bytes = total.moved_bytes + one.moved_bytes
    expert: Number = 0.0
    for sent in phase.exposed:
        _add(total, sent, collective_seconds(sent, cluster))
    for sent, beside in phase.behind:
        took = collective_seconds(sent, cluster)
        if sent.axis == "expert":
            expert = expert + took
            continue
        alone = seconds[id(beside)]
        _add(total, sent, np.maximum(beside_seconds(alone, took, cluster.contention) - alone, 0.0))
    for sent, beside in phase.pieced:
        alone, took = seconds[id(beside)], collective_seconds(sent, cluster)
        together = ring_seconds if sent.axis == "context" else pieced_seconds
        _add(total, sent, np.maximum(together(alone, took, sent.ranks) - alone, 0.0))
    if phase.behind:
        total.expert = total.expert + beside_seconds(total.compute, expert, cluster.contention) - total.compute
    total.sent_bytes = sum((one.message_bytes for one in phase.operators), start=np.float64(0.0))
    return total


def launches(one: Operator) -> Number:
    """Kernels that the host launches for an operator: a grouped product is one per group."""
    if isinstance(one, Elementwise):
        return float(one.kernels)
    return one.batch if isinstance(one, Matmul) else 1.0


def _add(total: PhaseSeconds, sent: GroupCollective, seconds: Number) -> None:
    setattr(total, sent.axis, getattr(total, sent.axis) + seconds)
