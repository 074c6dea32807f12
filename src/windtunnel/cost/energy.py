"""Energy of operators and steps.

    joules = flops * compute_share * W / peak(format) + bytes * byte_j
           + bytes sent * link_share * W / link rate
           + seconds * active_share * W,      W = max_w - idle_w

on top of idle power at all times. FLOPs are those executed: grouped products compute whole tiles. A byte
costs the same on devices of one generation, a FLOP what the device's limit and peak say; `active_share` is what raised
clocks draw whenever kernels run. The constants are kept with their sources in `catalogue/energy.yaml`. A
part of a step never draws more than W for as long as it takes: joules above that are cut, which stands for
clocks that the board's limit lowers, as the measured speeds of kernels contain already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import yaml
from pydantic import Field

from windtunnel.cost.collective import Link
from windtunnel.cost.device import Device
from windtunnel.cost.moe import executed_flops
from windtunnel.operators.collective import Collective, sent_bytes
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.moe import Experts
from windtunnel.operators.operator import Floats, Number, Operator
from windtunnel.operators.sparse_attention import IndexScores
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder


class Apart(Spec):
    """What differs on the devices of an architecture."""

    compute_share: float = Field(gt=0, description="as of all devices")
    byte_j: float = Field(gt=0, description="as of all devices")


class EnergyShares(Spec):
    """Energy constants; shares are of the envelope between idle and maximum power, at a unit's datasheet peak."""

    compute_share: float = Field(
        gt=0, description="matrix units at peak; above 1 where the limit lowers their clock before they reach it"
    )
    byte_j: float = Field(gt=0, description="joules per byte between device memory and processors")
    active_share: float = Field(0.0, ge=0, le=1, description="clocks raised and kernels running, whatever they do")
    link_share: float = Field(ge=0, le=1, description="links to other accelerators at full rate")
    apart: dict[str, Apart] = Field({}, description="architectures with constants of their own")
    sources: tuple[Source, ...] = ()

    def of(self, architecture: str) -> EnergyShares:
        """The constants on devices of an architecture."""
        own = self.apart.get(architecture)
        return self.model_copy(update=own.model_dump()) if own is not None else self


@lru_cache(maxsize=1)
def energy_shares() -> EnergyShares:
    """The catalogue's constants."""
    text = (catalogue_folder("energy.yaml")).read_text(encoding="utf-8")
    return build(EnergyShares, yaml.safe_load(text), "catalogue/energy.yaml")


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy constants of one device.

    Attributes:
        device: whose.
        dynamic_w: most power above idle.
        byte_j: joules per byte read from or written to device memory.
        link_byte_j: joules per byte sent to a peer.
        compute_w: power above idle of the matrix units at peak.
        active_w: power above idle whenever kernels run.
        kind: where the constants come from.
    """

    device: Device
    dynamic_w: float
    byte_j: float
    link_byte_j: float
    compute_w: float
    active_w: float = 0.0
    kind: str = "calibrated"

    def flop_j(self, dtype: str) -> float:
        """Joules per FLOP in a number format."""
        return self.compute_w / self.device.peak_flops_per_s(dtype)


def energy_of(device: Device, link: Link) -> Energy:
    """Energy constants of a device whose ranks talk over a link."""
    shares = energy_shares().of(device.accelerator.architecture)
    envelope = device.accelerator.max_w - device.accelerator.idle_w
    return Energy(
        device=device,
        dynamic_w=envelope,
        byte_j=shares.byte_j,
        link_byte_j=shares.link_share * envelope / link.bytes_per_s,
        compute_w=shares.compute_share * envelope,
        active_w=shares.active_share * envelope,
    )


def joules_of(operator: Operator, energy: Energy) -> Number:
    """Dynamic joules of one execution on one rank."""
    plain = "fp8" if isinstance(operator, IndexScores) else "bf16"
    dtype = operator.compute_dtype if isinstance(operator, Matmul | Experts) else plain
    joules = _executed(operator, energy) * energy.flop_j(dtype) + operator.moved_bytes * energy.byte_j
    if isinstance(operator, Collective):
        joules = joules + sent_bytes(operator.kind, operator.message_bytes, operator.group) * energy.link_byte_j
    else:
        joules = joules + operator.message_bytes * energy.link_byte_j
    return joules


def _executed(operator: Operator, energy: Energy) -> Number:
    if not isinstance(operator, Experts):
        return operator.flops
    tile_rows = energy.device.constants.moe_of(operator.weight_dtype, operator.compute_dtype).tile_rows
    return executed_flops(
        operator.tokens,
        experts=operator.experts,
        local_experts=operator.local_experts,
        experts_per_token=operator.experts_per_token,
        hidden=operator.hidden,
        local_ffn=operator.ffn,
        matrices=operator.matrices,
        tile_rows=tile_rows,
    )


def capped(joules: Floats, seconds: Floats, energy: Energy) -> Floats:
    """Joules of one rank that is active for some time, cut at the most it can draw above idle in that time."""
    return np.asarray(np.minimum(joules + energy.active_w * seconds, energy.dynamic_w * seconds))


def static_watts(deployment: DeploymentSpec) -> float:
    """Idle power of one replica's accelerators (the server around them is not counted)."""
    return deployment.accelerators_per_replica * deployment.accelerator.idle_w


def host_watts(deployment: DeploymentSpec) -> float:
    """The replica's share of its servers' power without accelerators."""
    return deployment.node.host_w * deployment.plan.accelerators_per_replica / deployment.node.accelerators
