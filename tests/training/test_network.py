"""Collectives over a cluster: volumes and times meet their lower bounds, groups lie where ranks are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.network import (
    Group,
    Network,
    all_gather_seconds,
    all_reduce_seconds,
    all_to_all_seconds,
    domain_of,
    network_constants,
    network_of,
    reduce_scatter_seconds,
    send_seconds,
)
from windtunnel.specs.training import TrainingPlan
from windtunnel.specs.training_check import training_job

NET = Network(domain=8, inside_bytes_per_s=360e9, between_bytes_per_s=45e9, between_latency_s=2e-6)
SWITCHED = Network(
    domain=8, inside_bytes_per_s=360e9, between_bytes_per_s=45e9, between_latency_s=2e-6, in_network_bytes_per_s=275e9
)
BIG = 8e9


def test_groups_lie_where_their_ranks_are() -> None:
    assert NET.per_node(Group(8, 1)) == 8
    assert NET.per_node(Group(4, 2)) == 4
    assert NET.nodes(Group(4, 2)) == 1
    assert NET.per_node(Group(64, 8)) == 1
    assert NET.nodes(Group(64, 8)) == 64
    assert NET.per_node(Group(64, 4)) == 2
    assert NET.nodes(Group(1024, 1)) == 128


@pytest.mark.parametrize(("collective", "rounds"), [(all_gather_seconds, 1.0), (reduce_scatter_seconds, 1.0)])
def test_rings_meet_their_bound_inside_a_node(collective: object, rounds: float) -> None:
    """(n - 1) / n of the tensor passes through each rank (Patarasuk and Yuan, 2009)."""
    assert callable(collective)
    bound = rounds * 7 / 8 * BIG / NET.inside_bytes_per_s
    assert bound <= float(collective(BIG, Group(8), NET)) <= 1.01 * bound


def test_all_reduce_meets_its_bounds() -> None:
    inside = 2 * 7 / 8 * BIG / NET.inside_bytes_per_s
    assert inside <= float(all_reduce_seconds(BIG, Group(8), NET)) <= 1.01 * inside
    across = 2 * 15 / 16 * BIG / NET.between_bytes_per_s
    assert across <= float(all_reduce_seconds(BIG, Group(16, 8), NET)) <= 1.01 * across


def test_switches_reduce_with_less_traffic() -> None:
    """A rank sends and receives the tensor once, whatever the group."""
    assert float(all_reduce_seconds(BIG, Group(8), SWITCHED)) == pytest.approx(BIG / 275e9, rel=0.01)


def test_all_to_all_meets_its_bound() -> None:
    inside = 7 / 8 * BIG / NET.inside_bytes_per_s
    assert inside <= float(all_to_all_seconds(BIG, Group(8), NET)) <= 1.01 * inside
    across = 56 / 64 * BIG / NET.between_bytes_per_s
    assert across <= float(all_to_all_seconds(BIG, Group(64), NET, fused=True)) <= 1.01 * across
    share = network_constants().all_to_all_share
    plain = float(all_to_all_seconds(BIG, Group(64), NET))
    assert across / share <= plain <= 1.01 * across / share


def test_dedupe_saves_only_between_nodes() -> None:
    assert all_to_all_seconds(BIG, Group(8), NET, 0.5) == all_to_all_seconds(BIG, Group(8), NET)
    full, half = (float(all_to_all_seconds(BIG, Group(64), NET, share)) for share in (1.0, 0.5))
    assert half == pytest.approx(full / 2, rel=0.01)


def test_ranks_of_a_node_use_their_cards_together() -> None:
    """Two ranks in a node carry a group's traffic over both their cards: half the time of one."""
    one = float(all_gather_seconds(BIG, Group(64, 8), NET))
    two = float(all_gather_seconds(BIG, Group(128, 4), NET))
    assert two == pytest.approx(one / 2, rel=0.02)


def test_small_messages_take_latency() -> None:
    """Trees grow with the logarithm of the nodes, rings with their number."""
    small = 1024.0
    rings = [float(all_gather_seconds(small, Group(n, 8), NET)) for n in (8, 64, 512)]
    trees = [float(all_reduce_seconds(small, Group(n, 8), NET)) for n in (8, 64, 512)]
    assert rings[2] / rings[1] == pytest.approx(8, rel=0.2)
    assert trees[2] - trees[1] == pytest.approx(trees[1] - trees[0], rel=0.01)
    assert trees[2] < 1e-4


@settings(deadline=None)
@given(st.floats(1.0, 1e10), st.integers(0, 15), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([NET, SWITCHED]))
def test_time_grows_with_the_message_and_the_group(size: float, power: int, stride: int, network: Network) -> None:
    group, larger = Group(2**power, stride), Group(2 ** (power + 1), stride)
    for collective in (all_gather_seconds, all_to_all_seconds, reduce_scatter_seconds):
        assert collective(size, group, network) <= collective(2 * size, group, network)
        assert collective(size, group, network) <= float(collective(size, larger, network)) * (1 + 1e-9)
    halves = all_gather_seconds(size, group, network) + reduce_scatter_seconds(size, group, network)
    assert all_reduce_seconds(size, group, network) <= float(halves) + 1e-12


def test_one_rank_and_no_bytes_take_no_time() -> None:
    for collective in (all_gather_seconds, all_reduce_seconds, all_to_all_seconds):
        assert collective(BIG, Group(1), NET) == 0.0
        assert collective(0.0, Group(8), NET) == 0.0


def test_arrays_are_the_scalars() -> None:
    sizes, groups = np.array([1.0, 2.0, 8.0, 64.0, 1024.0]), np.array([1.0, 8.0, 8.0, 4.0, 2.0])
    together = all_reduce_seconds(1e8, Group(sizes, groups), NET)
    alone = [float(all_reduce_seconds(1e8, Group(n, s), NET)) for n, s in zip(sizes, groups, strict=True)]
    assert together == pytest.approx(alone)


def test_messages_leave_the_node_by_distance() -> None:
    near, far = float(send_seconds(1e9, 4, NET)), float(send_seconds(1e9, 8, NET))
    assert near == pytest.approx(1e9 / 360e9, rel=0.05)
    assert far == pytest.approx(1e9 / 45e9, rel=0.05)


def test_racks_are_filled_evenly() -> None:
    assert domain_of(256, 72) == 64
    assert domain_of(72, 72) == 72
    assert domain_of(16, 72) == 16
    assert domain_of(1024, 8) == 8


def test_cards_are_shared_among_the_ranks_of_a_node() -> None:
    job = training_job(
        "llama-3.1-8b",
        "h100-sxm",
        gpus=64,
        global_batch_sequences=64,
        seq_len=4096,
        plan=TrainingPlan(zero_stage=1),
    )
    full = network_of(job)
    half = network_of(job.model_copy(update={"node": job.node.model_copy(update={"nics": 4})}))
    assert full.between_bytes_per_s == pytest.approx(50e9 * job.scale_out.efficiency)
    assert half.between_bytes_per_s == pytest.approx(full.between_bytes_per_s / 2)


@pytest.mark.parametrize("gpus", [2, 8])
def test_cards_on_a_bus_share_it(gpus: int) -> None:
    """Without links of their own, more cards leave each less than its host link."""
    job = training_job(
        "llama-3.2-1b", "l40s", gpus=gpus, global_batch_sequences=gpus, seq_len=1024, plan=TrainingPlan(zero_stage=3)
    )
    network = network_of(job)
    assert network.over_host
    assert 1e9 < network.inside_bytes_per_s < job.accelerator.host_link_bytes_per_s
    pair = job.model_copy(update={"gpus": 2})
    assert network.inside_bytes_per_s <= network_of(pair).inside_bytes_per_s


@given(
    size=st.floats(1.0, 1e11),
    per_node=st.sampled_from([1, 2, 4, 8]),
    nodes=st.sampled_from([1, 2, 3, 16, 512]),
    network=st.sampled_from([NET, SWITCHED]),
)
@settings(max_examples=200, deadline=None)
def test_no_collective_beats_its_lower_bounds(size: float, per_node: int, nodes: int, network: Network) -> None:
    """Bytes that must pass a rank's link inside and its share of the cards, and the steps a message must take.

    A rank must receive what it has not, (n - 1) / n of the tensor, and as much must be reduced before it is
    gathered (Patarasuk and Yuan, 2009); a switch that reduces halves that. Information from n ranks needs
    log2(nodes) hops between nodes to reach all of them (Chan et al., 2007).
    """
    n = per_node * nodes
    if n == 1:
        return
    group = Group(n, network.domain // per_node if nodes > 1 else 1)
    inside = (per_node - 1) / per_node * size / network.inside_bytes_per_s
    across = (nodes - 1) / nodes * size / per_node / network.between_bytes_per_s
    hops = np.ceil(np.log2(nodes)) * network.between_latency_s
    for gather in (all_gather_seconds, reduce_scatter_seconds):
        assert float(gather(size, group, network)) >= max(inside, across, hops)
    halves = 1.0 if network.in_network_bytes_per_s else 2.0
    reduced = float(all_reduce_seconds(size, group, network))
    assert reduced >= max(halves * size * (per_node > 1) / 2.0 / network.inside_bytes_per_s * 0.99, across, hops)
    if not network.in_network_bytes_per_s:
        assert reduced >= max(2.0 * inside, 2.0 * across)
    leaves = (n - per_node) / n * size / network.between_bytes_per_s
    stays = (per_node - 1) / n * size / network.inside_bytes_per_s
    sent = float(all_to_all_seconds(size, group, network, fused=True))
    assert sent >= max(leaves, stays, network.between_latency_s * (nodes > 1))
    assert sent <= float(all_to_all_seconds(size, group, network))
