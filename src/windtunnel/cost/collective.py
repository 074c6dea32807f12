"""Collectives: latency and bandwidth per algorithm, inside a node and across nodes.

All-reduce of S bytes over n ranks at link rate B takes the cheaper of

    one-shot   a1 + (n - 1) * peer + (n - 1) * S / (o * e * B)    every rank reads every other's buffer
    two-shot   a2 + (n - 1) * peer + 2 * (n - 1) / n * S / (e * B)

(reduce-scatter then all-gather, the bandwidth-optimal volume of a ring). The one-shot kernel is an engine's own
and runs on few processors, whose loads in flight do not fill the newest links (o, `own_share`). Across nodes the
hierarchy is reduce-scatter inside, all-reduce of the shard between nodes, all-gather inside.

In a rack whose hosts share one NVLink domain (NVL72) these kernels end at the host, as they map the memory of
processes of one operating system. Beyond it, up to eight ranks reduce in the switch and more in the library's
ring, both at the volume of the two-shot:

    in the switch   switch + 2 * (n - 1) / n * S / (e * B)
    ring            2 * (n - 1) * hop + 2 * (n - 1) / n * S / (e * B)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.cost.constants import CollectiveConstants
from windtunnel.cost.device import calibration, device_of
from windtunnel.cost.engine_kernels import collective_under
from windtunnel.specs.deployment import DeploymentSpec

Floats = npt.NDArray[np.float64]

STAGED = "pcie-staged"
"""The calibration entry of cards on a host's bus without access to each other's memory."""
OVER_HOST = "l40s"
"""The calibration entry whose collectives stand for cards on a host's bus that were not measured themselves."""
SWITCH_RANKS = 8
"""Ranks up to which PyTorch's symmetric memory reduces in the switch in vLLM (its tables of message sizes by ranks)."""
OVER_SWITCHES = "rtx-pro-6000"
"""The entry measured in a server whose cards reach each other through PCIe switches."""


@dataclass(frozen=True, slots=True)
class Link:
    """How the ranks of a group are joined.

    Attributes:
        kind: catalogue name of the fabric inside the node.
        bytes_per_s: rate per rank and direction inside a node.
        constants: fixed times and efficiency of collectives inside a node.
        ranks_per_node: how many ranks of the group a node holds.
        inter_bytes_per_s: rate per rank and direction between nodes; 0 when the group stays in one node.
        inter_latency_s: one-way latency between nodes.
        inter_efficiency: share of that rate that large messages reach.
    """

    kind: str
    bytes_per_s: float
    constants: CollectiveConstants
    ranks_per_node: int
    inter_bytes_per_s: float = 0.0
    inter_latency_s: float = 0.0
    inter_efficiency: float = 1.0


def link_of(deployment: DeploymentSpec, ranks: int) -> Link:
    """The link of a group of consecutive ranks of a deployment."""
    node, fabric, out = deployment.node, deployment.scale_up, deployment.scale_out
    inside = min(ranks, node.accelerators)
    constants = device_of(deployment.accelerator).constants.collective
    rate = fabric.bytes_per_s
    if fabric.scope == "host":
        # No fabric between the cards: traffic crosses the host's bus, which more than two cards share.
        constants = constants if constants.over_host else calibration(OVER_HOST).collective
        if node.topology == "pcie-switch":
            constants = calibration(OVER_SWITCHES).collective
    elif node.topology == "mesh" and node.accelerators > 1:
        # A rank reaches its peers over its own share of the links: n - 1 of N - 1 are in use.
        rate = rate * (inside - 1) / (node.accelerators - 1) if inside > 1 else rate
    if fabric.scope == "host" and not node.peer_access:
        constants = calibration(STAGED).collective
        if node.staged_bytes_per_s:
            constants = constants.model_copy(update={"efficiency": min(node.staged_bytes_per_s / rate, 1.0)})
    constants = collective_under(constants, deployment.engine)
    if ranks <= node.accelerators:
        return Link(fabric.name, rate, constants, inside)
    nics = node.nic_bytes_per_s * max(node.nics, 1) / node.accelerators
    return Link(fabric.name, rate, constants, inside, min(nics, out.bytes_per_s), out.latency_s, out.efficiency)


def all_reduce_seconds(message_bytes: npt.ArrayLike, ranks: int, link: Link) -> Floats:
    """Seconds to all-reduce a message of so many bytes (the size of one rank's buffer)."""
    size = np.asarray(message_bytes, dtype=np.float64)
    if ranks <= 1:
        return np.zeros_like(size)
    if ranks <= link.ranks_per_node:
        return np.where(size > 0, _inside(size, ranks, link), 0.0)
    inside, nodes = link.ranks_per_node, -(-ranks // link.ranks_per_node)
    shard = size / inside
    between = 2.0 * (nodes - 1) / nodes * shard / (link.inter_bytes_per_s * link.inter_efficiency)
    latency = 2.0 * np.ceil(np.log2(nodes)) * link.inter_latency_s
    within = _inside(size, inside, link) if inside > 1 else 0.0
    return np.where(size > 0, within + between + latency, 0.0)


def reached_bytes_per_s(link: Link, ranks: int) -> float:
    """The rate that a rank reaches inside a node: its share of the link, less where many share a bus."""
    share: float = (2.0 / max(ranks, 2)) ** link.constants.contention
    return link.bytes_per_s * link.constants.efficiency * share


def _inside(size: Floats, ranks: int, link: Link) -> Floats:
    c = link.constants
    peers = (ranks - 1) * c.peer_s
    rate = reached_bytes_per_s(link, ranks)
    optimal = 2.0 * (ranks - 1) / ranks * size / rate
    if 0 < c.near_ranks < ranks:
        return optimal + (c.switch_s if ranks <= SWITCH_RANKS else 2.0 * (ranks - 1) * c.hop_s)
    one_shot = c.one_shot_s + peers + (ranks - 1) * size / (rate * c.own_share)
    return np.minimum(one_shot, c.ring_s + peers + optimal)


def reduce_scatter_seconds(message_bytes: npt.ArrayLike, ranks: int, link: Link) -> Floats:
    """Seconds to reduce-scatter: each rank starts with message_bytes and ends with its share."""
    return _half(message_bytes, ranks, link)


def all_gather_seconds(message_bytes: npt.ArrayLike, ranks: int, link: Link) -> Floats:
    """Seconds to all-gather: each rank ends with message_bytes in all."""
    return _half(message_bytes, ranks, link)


def _half(message_bytes: npt.ArrayLike, ranks: int, link: Link) -> Floats:
    size = np.asarray(message_bytes, dtype=np.float64)
    if ranks <= 1:
        return np.zeros_like(size)
    c = link.constants
    inside = min(ranks, link.ranks_per_node)
    rate = reached_bytes_per_s(link, inside)
    seconds = c.one_shot_s + (inside - 1) * c.peer_s + (inside - 1) / inside * size / rate
    if ranks > link.ranks_per_node:
        nodes = -(-ranks // link.ranks_per_node)
        between = link.inter_bytes_per_s * link.inter_efficiency
        seconds = (
            seconds + np.ceil(np.log2(nodes)) * link.inter_latency_s + (nodes - 1) / nodes * size / inside / between
        )
    return np.where(size > 0, seconds, 0.0)


def all_to_all_seconds(message_bytes: npt.ArrayLike, ranks: int, link: Link) -> Floats:
    """Seconds of an all-to-all in which each rank sends message_bytes in all, evenly to its peers."""
    size = np.asarray(message_bytes, dtype=np.float64)
    if ranks <= 1:
        return np.zeros_like(size)
    c = link.constants
    inside = min(ranks, link.ranks_per_node)
    seconds = c.ring_s + (inside - 1) * c.peer_s + (inside - 1) / ranks * size / reached_bytes_per_s(link, inside)
    if ranks > link.ranks_per_node:
        rate = link.inter_bytes_per_s * link.inter_efficiency
        outside = (ranks - link.ranks_per_node) / ranks * size / rate + link.inter_latency_s
        seconds = np.maximum(seconds, outside + c.ring_s)
    return np.where(size > 0, seconds, 0.0)


def send_recv_seconds(message_bytes: npt.ArrayLike, link: Link, *, between_nodes: bool = False) -> Floats:
    """Seconds to send a message to one peer."""
    size = np.asarray(message_bytes, dtype=np.float64)
    if between_nodes and link.inter_bytes_per_s > 0:
        seconds = link.inter_latency_s + size / (link.inter_bytes_per_s * link.inter_efficiency)
    else:
        seconds = link.constants.one_shot_s + size / (link.constants.efficiency * link.bytes_per_s)
    return np.where(size > 0, seconds, 0.0)
