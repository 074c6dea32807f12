"""Memory of a training job per rank, tensor by tensor, at the peak of its schedule.

stack = account(job)
print(stack.table())
stack.check()
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.errors import InfeasibleError
from windtunnel.specs.training import TrainingJob
from windtunnel.training.memory_layout import MemoryLayout, memory_layout, runtime_memory
from windtunnel.training.memory_peak import moments, peak_of, total
from windtunnel.training.memory_stages import StageLoad, stacked, stage_load


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One part of the stack: name, bytes and how they come about."""

    name: str
    bytes: float
    how: str = ""


@dataclass(frozen=True, slots=True)
class MemoryStack:
    """Memory of a pipeline rank at its peak, as parts that add up.

    Attributes:
        parts: live tensors, largest groups first as they are accounted.
        stage: the pipeline rank, counted from 0.
        moment: when the peak is, such as `loss`.
        reserved_share: memory the caching allocator holds over the live tensors.
        context_bytes: driver context and communicators, outside the allocator.
        device_bytes: the accelerator's memory.
        layers: layers that the rank holds.
    """

    parts: tuple[MemoryPart, ...]
    stage: int
    moment: str
    reserved_share: float
    context_bytes: float
    device_bytes: float
    layers: int

    @property
    def allocated_bytes(self) -> float:
        """Live tensors at the peak, as a framework's `max_memory_allocated` counts them."""
        return sum(part.bytes for part in self.parts)

    @property
    def reserved_bytes(self) -> float:
        """What the allocator holds for them, fragmentation included (`max_memory_reserved`)."""
        return self.allocated_bytes * self.reserved_share

    @property
    def total_bytes(self) -> float:
        """What the device shows as taken, driver context and communicators included."""
        return self.reserved_bytes + self.context_bytes

    @property
    def fits(self) -> bool:
        """Whether it fits the device."""
        return self.total_bytes <= self.device_bytes

    def part(self, name: str) -> float:
        """Bytes of a part by name; 0 where there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)

    def rows(self) -> tuple[MemoryPart, ...]:
        """The parts with fragmentation and context, which add up to `total_bytes`."""
        return (
            *self.parts,
            MemoryPart("fragmentation", self.reserved_bytes - self.allocated_bytes, "held by the allocator"),
            MemoryPart("context and communicators", self.context_bytes, "outside the allocator"),
        )

    def table(self) -> str:
        """The stack as text."""
        lines = [f"peak on pipeline rank {self.stage} ({self.layers} layers), {self.moment}"]
        lines += [f"  {row.name:<34}{row.bytes / 1e9:>9.2f} GB  {row.how}" for row in self.rows() if row.bytes]
        verdict = "fits" if self.fits else "does not fit"
        lines.append(f"  {'total':<34}{self.total_bytes / 1e9:>9.2f} GB  {verdict} {self.device_bytes / 1e9:,.1f} GB")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The stack as plain values, bytes throughout."""
        return {
            "stage": self.stage,
            "layers": self.layers,
            "moment": self.moment,
            "fits": self.fits,
            "device_bytes": self.device_bytes,
            "total_bytes": self.total_bytes,
            "allocated_bytes": self.allocated_bytes,
            "parts": [{"name": row.name, "bytes": row.bytes, "how": row.how} for row in self.rows()],
        }

    def reason(self) -> str:
        """Why it does not fit, with the largest parts; empty when it does."""
        if self.fits:
            return ""
        largest = sorted(self.rows(), key=lambda row: -row.bytes)[:4]
        named = " + ".join(f"{row.name} {row.bytes / 1e9:,.1f} GB" for row in largest)
        return (
            f"does not fit: {named} + ... = {self.total_bytes / 1e9:,.1f} GB > {self.device_bytes / 1e9:,.1f} GB"
            f" per accelerator (pipeline rank {self.stage}, {self.moment})"
        )

    def check(self, what: str = "the training job") -> None:
        """Raise an `InfeasibleError` that shows the sum unless it fits."""
        if not self.fits:
            raise InfeasibleError(f"{what} {self.reason()}")


def account(job: TrainingJob) -> MemoryStack:
    """Memory of the worst pipeline rank of a job."""
    layout = memory_layout(job)
    loads = [stage_load(job.model, job.plan, job.microbatches, rank) for rank in range(job.plan.pipeline_parallel)]
    rank = int(np.argmax(peak_of(layout, stacked(loads))))
    return _stack(job, layout, loads[rank], rank, context_bytes(job))


def stage_stacks(job: TrainingJob) -> tuple[MemoryStack, ...]:
    """Memory of every pipeline rank, first to last."""
    layout = memory_layout(job)
    context = context_bytes(job)
    return tuple(
        _stack(job, layout, stage_load(job.model, job.plan, job.microbatches, rank), rank, context)
        for rank in range(job.plan.pipeline_parallel)
    )


def _stack(job: TrainingJob, layout: MemoryLayout, load: StageLoad, rank: int, context: float) -> MemoryStack:
    found = moments(layout, load)
    if not load.last:
        found = {name: parts for name, parts in found.items() if name not in ("loss", "head backward")}
    moment = max(found, key=lambda name: float(total(found[name])))
    parts = tuple(MemoryPart(p.name, float(p.bytes), p.how) for p in found[moment] if float(p.bytes))
    layers = int(np.asarray(load.layers))
    share = runtime_memory().reserved_share
    return MemoryStack(parts, rank, moment, share, context, job.accelerator.memory_bytes, layers)


def context_bytes(job: TrainingJob) -> float:
    """Driver context and the buffers of the communicators that the layout needs."""
    plan, runtime = job.plan, runtime_memory()
    sizes = (plan.tensor_parallel, plan.context_parallel, plan.pipeline_parallel, plan.expert_parallel)
    groups = sum(size > 1 for size in sizes) + (job.data_parallel > 1)
    return runtime.context_bytes + groups * runtime.communicator_bytes
