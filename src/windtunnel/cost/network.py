"""The network of a training cluster: parallel groups mapped to nodes, rails and network cards.

Ranks fill nodes in order. A group of `size` ranks `stride` apart has `per_node` of its ranks in each
node it touches. All groups of an axis communicate at once, so each rank has its even share of its
node's network cards; a group with several ranks in a node uses all their shares together.

Collectives are those of NCCL and RCCL, priced as NCCL's own tuning model does (base latency, latency per
step inside and between nodes, and a share of the bandwidth, for each algorithm and protocol; the
cheapest runs):

    ring     all-gather and reduce-scatter n - 1 steps, (n - 1) / n of the tensor through each rank;
             all-reduce both. Between nodes and inside them at once: the slower of the two decides.
    tree     all-reduce in 2 log2(nodes) steps between nodes
    in-network  all-reduce by the switch: each rank sends and receives the tensor once
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field

from windtunnel.cost.collective import OVER_HOST, OVER_SWITCHES, STAGED
from windtunnel.cost.device import calibration, device_of
from windtunnel.operators.operator import Number
from windtunnel.specs.fields import Seconds, Source, Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.training import TrainingJob

Floats = npt.NDArray[np.float64]


class Protocol(Spec):
    """One wire protocol of the collective library."""

    base_s: Seconds = Field(ge=0, description="fixed time of a collective")
    inside_step_s: Seconds = Field(ge=0, description="a step over the node's links")
    host_step_s: Seconds = Field(ge=0, description="a step over the host's bus")
    between_step_s: Seconds = Field(ge=0, description="a step between nodes, above the fabric's own latency")
    bandwidth_share: float = Field(gt=0, le=1, description="share of the wire's rate that is payload")


class NetworkConstants(Spec):
    """Constants of collectives, the same for every device; `catalogue/collectives.yaml`."""

    protocols: dict[str, Protocol]
    tree_bandwidth_share: float = Field(gt=0, le=1, description="rate of a tree over a ring's")
    peer_s: Seconds = Field(ge=0, description="added per peer of an all-to-all")
    all_to_all_share: float = Field(
        gt=0,
        le=1,
        description="rate between nodes of an all-to-all made of sends and receives, over a ring's",
    )
    in_network: dict[str, float] = Field(description="fabrics whose switches reduce: share of the link rate")
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def network_constants() -> NetworkConstants:
    """The catalogue's constants."""
    text = catalogue_folder("collectives.yaml").read_text(encoding="utf-8")
    return build(NetworkConstants, yaml.safe_load(text), "catalogue/collectives.yaml")


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that communicate: `size` of them, `stride` apart in the numbering."""

    size: Number
    stride: Number = 1


@dataclass(frozen=True, slots=True)
class Network:
    """What joins the ranks of a job.

    Attributes:
        domain: ranks joined by the scale-up fabric.
        inside_bytes_per_s: rate per rank and direction inside a node, as large messages reach it.
        between_bytes_per_s: rate per rank and direction between nodes: its even share of the node's cards.
        between_latency_s: one-way latency between nodes.
        over_host: whether the node's ranks talk over the host's bus.
        in_network_bytes_per_s: rate at which the scale-up switch reduces; 0 when it does not.
        shared_links: ranks of a node share out their links among peers (a mesh), so that a group
            of a few uses only some of them.
        package: neighbouring ranks in one package (dies), joined by a link of their own; 1 without.
        package_bytes_per_s: rate of that link, as large messages reach it.
    """

    domain: int
    inside_bytes_per_s: float
    between_bytes_per_s: float
    between_latency_s: float
    over_host: bool = False
    in_network_bytes_per_s: float = 0.0
    shared_links: bool = False
    package: int = 1
    package_bytes_per_s: float = 0.0

    def per_node(self, group: Group) -> Floats:
        """Ranks of the group in one node."""
        here = np.maximum(self.domain // np.asarray(group.stride), 1)
        found: Floats = np.minimum(here, np.asarray(group.size)).astype(np.float64)
        return found

    def nodes(self, group: Group) -> Floats:
        """Nodes that the group touches."""
        return np.ceil(np.asarray(group.size) / self.per_node(group))

    def inside_rate(self, group: Group) -> Floats:
        """Rate of a rank to its peers of the group inside the node."""
        here = self.per_node(group)
        rate = np.full_like(here, self.inside_bytes_per_s)
        if self.shared_links and self.domain > 1:
            rate = self.inside_bytes_per_s * np.maximum(here - 1.0, 1.0) / (self.domain - 1.0)
        if self.package_bytes_per_s:
            near = np.asarray(group.size) * np.asarray(group.stride) <= self.package
            rate = np.where(near, np.maximum(rate, self.package_bytes_per_s), rate)
        return rate


def network_of(job: TrainingJob) -> Network:
    """The network of a job's cluster."""
    node, up, out = job.node, job.scale_up, job.scale_out
    cards = node.nic_bytes_per_s * max(node.nics, 1) / node.accelerators
    mesh = node.topology == "mesh" and up.scope != "host"
    reduced = network_constants().in_network.get(up.name, 0.0) if node.topology == "switch" else 0.0
    domain = domain_of(job.gpus, node.accelerators)
    return Network(
        domain=domain,
        inside_bytes_per_s=up.bytes_per_s * (_bus_share(job, domain) if up.scope == "host" else up.efficiency),
        between_bytes_per_s=min(cards, out.bytes_per_s * max(node.nics, 1) / node.accelerators) * out.efficiency,
        between_latency_s=out.latency_s,
        over_host=up.scope == "host",
        in_network_bytes_per_s=reduced * up.bytes_per_s,
        shared_links=mesh,
        package=node.package_accelerators,
        package_bytes_per_s=node.package_bytes_per_s * up.efficiency,
    )


def _bus_share(job: TrainingJob, ranks: int) -> float:
    """Share of its host link that a rank reaches when all ranks of a node talk over the host's bus, as measured."""
    constants = device_of(job.accelerator).constants.collective
    if job.node.topology == "pcie-switch":
        constants = calibration(OVER_SWITCHES).collective
    elif not job.node.peer_access:
        constants = calibration(STAGED).collective
    elif not constants.over_host:
        constants = calibration(OVER_HOST).collective
    return float(constants.efficiency * (2.0 / max(ranks, 2)) ** constants.contention)


def domain_of(gpus: int, accelerators: int) -> int:
    """Ranks placed in each node: all it holds, or the most that divide the job evenly.

    A rack of 72 is commonly filled with 64 ranks so that groups of powers of two stay inside.
    """
    if gpus <= accelerators:
        return gpus
    even = max(d for d in range(1, accelerators + 1) if gpus % d == 0)
    return even if even > accelerators // 2 else accelerators


def all_gather_seconds(message_bytes: npt.ArrayLike, group: Group, network: Network) -> Floats:
    """Seconds until every rank holds the whole tensor of message_bytes, of which each had its share."""
    return _ringed(message_bytes, group, network, rounds=1.0)


def reduce_scatter_seconds(message_bytes: npt.ArrayLike, group: Group, network: Network) -> Floats:
    """Seconds until every rank holds its share of the sum of tensors of message_bytes."""
    return _ringed(message_bytes, group, network, rounds=1.0)


def all_reduce_seconds(message_bytes: npt.ArrayLike, group: Group, network: Network) -> Floats:
    """Seconds until every rank holds the sum: the cheapest of ring, tree and in-network reduction."""
    size = np.asarray(message_bytes, dtype=np.float64)
    ring = _ringed(size, group, network, rounds=2.0)
    best = np.minimum(ring, _tree(size, group, network))
    if network.in_network_bytes_per_s:
        best = np.minimum(best, _in_network(size, group, network))
    return np.where((np.asarray(group.size) > 1) & (size > 0), best, 0.0)


def all_to_all_seconds(
    message_bytes: npt.ArrayLike,
    group: Group,
    network: Network,
    dedupe: npt.ArrayLike = 1.0,
    *,
    fused: bool = False,
) -> Floats:
    """Seconds of an all-to-all in which each rank sends message_bytes in all, evenly to its peers.

    Args:
        message_bytes: what each rank sends, its own part included.
        group: who takes part.
        network: what joins them.
        dedupe: share of the bytes between nodes that is left when a token goes to a node once,
            whatever the number of its experts there.
        fused: a dispatch kernel of its own, which keeps the network cards full; else the library's.
    """
    size = np.asarray(message_bytes, dtype=np.float64)
    n, here = np.asarray(group.size, dtype=np.float64), network.per_node(group)
    simple = network_constants().protocols["simple"]
    inside = (here - 1.0) / n * size / network.inside_rate(group)
    share = 1.0 if fused else network_constants().all_to_all_share
    between = (n - here) / n * size * np.asarray(dedupe) / (share * _between(network))
    latency = simple.base_s + (n - 1.0) * network_constants().peer_s
    latency = latency + np.where(n > here, network.between_latency_s + simple.between_step_s, 0.0)
    return np.where((n > 1) & (size > 0), latency + np.maximum(inside, between), 0.0)


def send_seconds(message_bytes: npt.ArrayLike, distance: npt.ArrayLike, network: Network) -> Floats:
    """Seconds to send a message to the rank `distance` further in the numbering."""
    size = np.asarray(message_bytes, dtype=np.float64)
    simple = network_constants().protocols["simple"]
    out = np.asarray(distance) >= network.domain
    peer = Group(2, 1)
    step = np.where(out, network.between_latency_s + simple.between_step_s, _inside_step(simple, network))
    rate = np.where(out, _between(network), network.inside_rate(peer))
    return np.where(size > 0, simple.base_s + step + size / rate, 0.0)


def _between(network: Network) -> float:
    """The rate between nodes; without a network nothing crosses, which takes for ever."""
    return max(network.between_bytes_per_s, 1e-3)


def _inside_step(protocol: Protocol, network: Network) -> float:
    return protocol.host_step_s if network.over_host else protocol.inside_step_s


def _ringed(message_bytes: npt.ArrayLike, group: Group, network: Network, rounds: float) -> Floats:
    size = np.asarray(message_bytes, dtype=np.float64)
    n, here, nodes = np.asarray(group.size, dtype=np.float64), network.per_node(group), network.nodes(group)
    wire = np.where(here > 1, (n - 1.0) / n * size / network.inside_rate(group), 0.0)
    out = np.where(nodes > 1, (nodes - 1.0) / nodes * size / here / _between(network), 0.0)
    slower = rounds * np.maximum(wire, out)
    best = np.full(np.broadcast_shapes(size.shape, n.shape), np.inf)
    for protocol in network_constants().protocols.values():
        between = protocol.between_step_s + network.between_latency_s
        steps = (n - nodes) * _inside_step(protocol, network) + (nodes - 1.0) * between
        best = np.minimum(best, protocol.base_s + rounds * steps + slower / protocol.bandwidth_share)
    return np.where((n > 1) & (size > 0), best, 0.0)


def _tree(size: Floats, group: Group, network: Network) -> Floats:
    n, here, nodes = np.asarray(group.size, dtype=np.float64), network.per_node(group), network.nodes(group)
    share = network_constants().tree_bandwidth_share
    wire = np.where(here > 1, 2.0 * (here - 1.0) / here * size / network.inside_rate(group), 0.0)
    out = np.where(nodes > 1, 2.0 * size / here / _between(network), 0.0)
    slower = np.maximum(wire, out) / share
    best = np.full(np.broadcast_shapes(size.shape, n.shape), np.inf)
    for protocol in network_constants().protocols.values():
        between = protocol.between_step_s + network.between_latency_s
        steps = (here - 1.0) * _inside_step(protocol, network) + np.ceil(np.log2(nodes)) * between
        best = np.minimum(best, protocol.base_s + 2.0 * steps + slower / protocol.bandwidth_share)
    return best


def _in_network(size: Floats, group: Group, network: Network) -> Floats:
    """Reduced by the node's switch; between nodes the shares are reduced in a ring meanwhile."""
    here, nodes = network.per_node(group), network.nodes(group)
    simple = network_constants().protocols["simple"]
    inside = np.where(here > 1, size / network.in_network_bytes_per_s, 0.0)
    out = np.where(nodes > 1, 2.0 * (nodes - 1.0) / nodes * size / here / _between(network), 0.0)
    between = (simple.between_step_s + network.between_latency_s) * 2.0 * np.ceil(np.log2(nodes))
    found = simple.base_s + 2.0 * simple.inside_step_s + between + np.maximum(inside, out)
    return np.where(here > 1, found, np.inf)
