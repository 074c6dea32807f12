"""Hardware: accelerators, the nodes that hold them and the fabrics between nodes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from windtunnel.specs.fields import Bytes, BytesPerSecond, Dtype, FlopsPerSecond, Hertz, Seconds, Source, Spec, Watts


class AcceleratorSpec(Spec):
    """One accelerator: peak rates are dense (never the doubled sparse figure) and per device."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str = ""
    vendor: str
    architecture: str = Field(description="family whose calibration is inherited when the device has none of its own")
    memory_bytes: Bytes = Field(gt=0, description="memory that software sees")
    memory_bandwidth_bytes_per_s: BytesPerSecond = Field(gt=0)
    peak_flops_per_s: dict[Dtype, FlopsPerSecond] = Field(description="dense peak of matrix units per number format")
    vector_flops_per_s: FlopsPerSecond = Field(gt=0, description="fp32 rate outside the matrix units")
    processors: int = Field(gt=0, description="streaming multiprocessors, compute units or cores")
    clock_hz: Hertz = Field(gt=0, description="boost clock at which the peak is quoted")
    l2_cache_bytes: Bytes = Field(gt=0, description="last-level cache")
    scale_up: str = Field(
        "", description="kind of link between accelerators of a node, such as nvlink4; empty: host link only"
    )
    scale_up_bytes_per_s: BytesPerSecond = Field(0.0, ge=0, description="per device and direction, all links together")
    host_link: str = Field("pcie4", description="kind of link to the host")
    host_link_bytes_per_s: BytesPerSecond = Field(gt=0, description="per direction")
    idle_w: Watts = Field(ge=0)
    max_w: Watts = Field(gt=0, description="board power limit")
    kernels: str = Field(
        "",
        description="measured kernels that are asked before the cost model: a profile's folder (relative to the "
        "device's file), or aiconfigurator",
    )
    sources: tuple[Source, ...] = ()


class NodeSpec(Spec):
    """A server: how many accelerators it holds and how they and the network are wired."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str = ""
    accelerator: str = Field(description="catalogue name of its accelerator")
    accelerators: int = Field(gt=0)
    topology: Literal["switch", "mesh", "pairs", "host", "pcie-switch", "torus"] = Field(
        description="switch: full bandwidth to any peer; mesh: links shared out among peers; pairs: bridged pairs; "
        "host: over PCIe and the host; pcie-switch: over PCIe switches, past the host; torus: neighbours only"
    )
    peer_access: bool = Field(
        True,
        description="whether cards on the host's bus reach each other's memory; else traffic is staged through "
        "the host's memory",
    )
    staged_bytes_per_s: BytesPerSecond = Field(
        0.0, ge=0, description="rate of that traffic per card where it was measured; 0: as calibrated elsewhere"
    )
    package_accelerators: int = Field(1, ge=1, description="neighbouring accelerators (dies) of one package")
    package_bytes_per_s: BytesPerSecond = Field(0.0, ge=0, description="between them, per direction; 0: as any others")
    nics: int = Field(1, ge=0)
    nic_bytes_per_s: BytesPerSecond = Field(0.0, ge=0, description="per network card and direction")
    fabric: str = Field("", description="catalogue name of the network between nodes")
    host_memory_bytes: Bytes = Field(0.0, ge=0)
    host_bandwidth_bytes_per_s: BytesPerSecond = Field(0.0, ge=0, description="of the host's memory, all channels")
    nvme_bytes: Bytes = Field(0.0, ge=0, description="capacity of the server's NVMe drives together")
    nvme_read_bytes_per_s: BytesPerSecond = Field(0.0, ge=0, description="sequential reads, all drives together")
    nvme_write_bytes_per_s: BytesPerSecond = Field(0.0, ge=0, description="sequential writes, all drives together")
    host_w: Watts = Field(0.0, ge=0, description="power of the server without its accelerators")
    host_time: float = Field(
        1.0,
        gt=0,
        description="how long an engine's work on the host takes, relative to the servers that engines' host times "
        "were fitted on (those of H100, H200 and B200)",
    )
    sources: tuple[Source, ...] = ()


class FabricSpec(Spec):
    """A link technology, inside a node (NVLink, PCIe) or between nodes (InfiniBand, Ethernet)."""

    name: str
    aliases: tuple[str, ...] = ()
    title: str = ""
    scope: Literal["scale-up", "host", "scale-out"]
    bytes_per_s: BytesPerSecond = Field(gt=0, description="per port (or per device for scale-up) and direction")
    latency_s: Seconds = Field(ge=0, description="one-way latency of a small message, software included")
    efficiency: float = Field(gt=0, le=1, description="share of the rate that large messages reach")
    sources: tuple[Source, ...] = ()


class PriceSpec(Spec):
    """What an accelerator costs to rent."""

    accelerator: str
    usd_per_h: float = Field(ge=0, description="US dollars per accelerator and hour, on demand")
    provider: str
    instance: str = ""
    region: str
    date: str
    sources: tuple[Source, ...] = ()
