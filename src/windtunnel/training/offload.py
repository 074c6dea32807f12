"""Offload of optimiser, activations and weights to host memory or NVMe: what it moves, holds and takes.

    ZeRO-Offload   arXiv:2101.06840   states and update on the host; gradients out, weights back
    ZeRO-Infinity  arXiv:2104.07857   the same and weights, on NVMe; the update follows the backward pass
    Fuyou          arXiv:2403.06504   activations too; each layer's update runs behind the backward pass

Links work side by side with compute within a phase; the slowest decides. Reads and writes share the
drives. Unless `offload_overlap` is set, an update reads its states, computes and writes them one
after the other, as DeepSpeed does by default (`pipeline_read` and `pipeline_write` off).
"""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.errors import InfeasibleError, Problem, SpecError
from windtunnel.specs.load import resolve
from windtunnel.specs.training import DTYPE_BYTES_TRAINING, TrainingJob
from windtunnel.training.memory_layer import kept_bytes, layer_memory
from windtunnel.training.memory_layout import memory_layout, offload_facts
from windtunnel.training.memory_parts import standing, state_value_bytes
from windtunnel.training.memory_stages import stage_load
from windtunnel.training.optimizers import state_bytes

UPDATE_TRANSIENT_BYTES = 2.0
"""Gradients and updated weights cross the host link in 16 bits."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one rank moves in a phase of a step.

    Attributes:
        to_device, to_host: over the host link.
        read, written: NVMe.
        host_touched: host memory that an update reads and writes.
    """

    to_device: float = 0.0
    to_host: float = 0.0
    read: float = 0.0
    written: float = 0.0
    host_touched: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.to_device + other.to_device,
            self.to_host + other.to_host,
            self.read + other.read,
            self.written + other.written,
            self.host_touched + other.host_touched,
        )


@dataclass(frozen=True, slots=True)
class OffloadNeed:
    """What offloading holds outside the accelerators of a node, and moves in a step.

    Attributes:
        host_bytes: host memory of the node, all of its ranks.
        nvme_bytes: NVMe of the node.
        forward, backward, update: traffic of one rank in a step's phases, all microbatches.
    """

    host_bytes: float
    nvme_bytes: float
    forward: Traffic
    backward: Traffic
    update: Traffic


@dataclass(frozen=True, slots=True)
class OffloadRates:
    """Rates that one rank has to itself while its neighbours in the node move as much."""

    link_bytes_per_s: float
    read_bytes_per_s: float
    write_bytes_per_s: float
    update_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class OffloadTime:
    """A step with offloading: seconds of each phase, and what binds it."""

    forward_s: float
    backward_s: float
    update_s: float
    binds: tuple[str, str, str]

    @property
    def step_s(self) -> float:
        """The whole step."""
        return self.forward_s + self.backward_s + self.update_s


def is_offloaded(job: TrainingJob) -> bool:
    """Whether anything of the job is kept outside the accelerators."""
    plan = job.plan
    return any(where != "none" for where in (plan.offload_optimizer, plan.offload_activations, plan.offload_weights))


def offload_need(job: TrainingJob) -> OffloadNeed:
    """What a job's offloading holds and moves; the first pipeline rank stands for all."""
    plan, layout = job.plan, memory_layout(job)
    load = stage_load(job.model, plan, job.microbatches, 0)
    matrices = standing(layout, load).matrices
    micros = float(job.microbatches)
    values = float(sum(m.values / (layout.expert_zero_ranks if m.routed else layout.zero_ranks) for m in matrices))
    weights = values * DTYPE_BYTES_TRAINING[plan.weight_dtype]
    held, forward, backward, update = {"host": 0.0, "nvme": 0.0}, Traffic(), Traffic(), Traffic()
    if plan.offload_weights != "none":
        held[plan.offload_weights] += weights
        drives = weights * micros * (plan.offload_weights == "nvme")
        forward += Traffic(to_device=weights * micros, read=drives)
        backward += Traffic(to_device=weights * micros, read=drives)
    if plan.offload_activations != "none":
        kept = 0.0
        for routed, live, layers in ((False, load.live_dense, load.dense), (True, load.live_sparse, load.sparse)):
            if layers:
                each = float(kept_bytes(layout, layer_memory(layout, routed=routed)))
                held[plan.offload_activations] += each * float(live)
                kept += each * float(layers) * micros
        drives = kept * (plan.offload_activations == "nvme")
        forward += Traffic(to_host=kept, written=drives)
        backward += Traffic(to_device=kept, read=drives)
    if plan.offload_optimizer != "none":
        states = _state_bytes(job)
        held[plan.offload_optimizer] += states
        held["host"] += _host_gradients(job, values)
        backward += Traffic(to_host=values * UPDATE_TRANSIENT_BYTES * micros)
        update += _update_traffic(job, values, states)
    ranks = min(job.node.accelerators, job.gpus)
    return OffloadNeed(held["host"] * ranks, held["nvme"] * ranks, forward, backward, update)


def _state_bytes(job: TrainingJob) -> float:
    """Master copies and states of a rank's share, wherever they are kept."""
    layout, plan = memory_layout(job), job.plan
    total = 0.0
    for m in standing(layout, stage_load(job.model, plan, job.microbatches, 0)).matrices:
        states = state_bytes(plan.optimizer, m, rank=plan.optimizer_rank, value_bytes=state_value_bytes(layout))
        master = m.values * 4.0 if plan.master_weights else 0.0
        total += float((states + master) / (layout.expert_zero_ranks if m.routed else layout.zero_ranks))
    return total


def _host_gradients(job: TrainingJob, values: float) -> float:
    """Host memory of offloaded gradients.

    DeepSpeed fills one buffer with all of a rank's gradients and pins it: the plain buffer and the
    pinned one, whose allocator rounds up to a power of two, exist together when it is set up.
    Overlapped updates take each layer's gradients as they come.
    """
    if job.plan.offload_overlap:
        return 2.0 * values * UPDATE_TRANSIENT_BYTES / max(job.model.layers, 1)
    size = values * UPDATE_TRANSIENT_BYTES
    if not memory_layout(job).habits.pinned_gradients:
        return size
    return size + float(1 << max(int(size) - 1, 0).bit_length())


def _update_traffic(job: TrainingJob, values: float, states: float) -> Traffic:
    """An update on the host: states, gradients and new weights are read and written once."""
    plan = job.plan
    new = values * UPDATE_TRANSIENT_BYTES
    drives = plan.offload_optimizer == "nvme"
    stays = plan.offload_weights != "none"
    return Traffic(
        to_device=0.0 if stays else new,
        read=states * drives,
        written=states * drives + (new if plan.offload_weights == "nvme" else 0.0),
        host_touched=2.0 * states + 2.0 * new,
    )


def offload_rates(job: TrainingJob) -> OffloadRates:
    """Rates of the links that a rank's offloading uses; the node's are shared by its ranks."""
    node, device = job.node, job.accelerator
    ranks = min(node.accelerators, job.gpus)
    link = resolve("fabrics", device.host_link, "host link")
    return OffloadRates(
        device.host_link_bytes_per_s * link.efficiency,
        node.nvme_read_bytes_per_s / ranks,
        node.nvme_write_bytes_per_s / ranks,
        node.host_bandwidth_bytes_per_s * offload_facts().host_update_share / ranks,
    )


def check_offload(job: TrainingJob) -> None:
    """Check that the node can do what is offloaded to it.

    Raises:
        InfeasibleError: host memory or NVMe do not hold what is offloaded there.
        SpecError: the node does not state a rate that offloading needs.
    """
    need, node = offload_need(job), job.node
    for what, wanted, there in (
        ("host memory", need.host_bytes, node.host_memory_bytes),
        ("NVMe", need.nvme_bytes, node.nvme_bytes),
    ):
        if wanted > there:
            raise InfeasibleError(
                f"offloading takes {wanted / 1e9:,.0f} GB of {what} per node, {node.name} has {there / 1e9:,.0f} GB"
            )
    moved = need.forward + need.backward + need.update
    needed = {
        "nvme_read_bytes_per_s": moved.read,
        "nvme_write_bytes_per_s": moved.written,
        "host_bandwidth_bytes_per_s": moved.host_touched,
    }
    missing = [name for name, amount in needed.items() if amount and not getattr(node, name)]
    if missing:
        raise SpecError([Problem("is needed for offloading and not stated", node.name, name) for name in missing])


def offload_time(job: TrainingJob, forward_s: float, backward_s: float) -> OffloadTime:
    """A step's phases from the compute times of all microbatches' forward and backward passes.

    Args:
        job: the job.
        forward_s, backward_s: compute (with its own communication) of a step's microbatches.
    """
    need, rates = offload_need(job), offload_rates(job)
    forward = _phase({"compute": forward_s} | _moves(need.forward, rates))
    if job.plan.offload_overlap:
        update_s = _moves(need.backward + need.update, rates)
        backward = _phase({"compute": backward_s} | update_s)
        return OffloadTime(forward[0], backward[0], 0.0, (forward[1], backward[1], ""))
    backward = _phase({"compute": backward_s} | _moves(need.backward, rates))
    parts = _moves(need.update, rates)
    return OffloadTime(
        forward[0], backward[0], sum(parts.values()), (forward[1], backward[1], max(parts, key=lambda k: parts[k]))
    )


def _moves(traffic: Traffic, rates: OffloadRates) -> dict[str, float]:
    """Seconds of each resource; both directions of the host link work at once, reads and writes share drives."""
    return {
        "host link": max(traffic.to_device, traffic.to_host) / rates.link_bytes_per_s,
        "NVMe": _over(traffic.read, rates.read_bytes_per_s) + _over(traffic.written, rates.write_bytes_per_s),
        "host update": _over(traffic.host_touched, rates.update_bytes_per_s),
    }


def _over(amount: float, rate: float) -> float:
    if not amount:
        return 0.0
    return amount / rate if rate else float("inf")


def _phase(parts: dict[str, float]) -> tuple[float, str]:
    name = max(parts, key=lambda key: parts[key])
    return parts[name], name
