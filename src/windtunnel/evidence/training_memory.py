"""Memory figures of published training tables: which of the account's totals a source means."""

from __future__ import annotations

from windtunnel.evidence.table import Row
from windtunnel.specs.training import TrainingJob
from windtunnel.training.memory import MemoryStack, account

ANALYTIC_PARTS = ("weights", "gradients", "master weights", "optimiser states", "activations")
"""What a paper's own formula counts."""


def predicted_memory(row: Row, job: TrainingJob) -> float:
    """A row's memory in its own unit, from the job it describes."""
    said = f"{row.text('source')} {row.text('notes')}".casefold()
    return stated_bytes(account(job), said) / (2.0**30 if "gib" in said else 1e9)


def stated_bytes(stack: MemoryStack, said: str) -> float:
    """The total that a source means: live tensors, what the allocator holds, what the device shows, or a formula.

    Args:
        stack: the account.
        said: the source and its notes in lower case.
    """
    if "analytic" in said:
        return sum(stack.part(name) for name in ANALYTIC_PARTS)
    if "nvidia-smi" in said or "rocm-smi" in said:
        return stack.total_bytes
    if "allocated" in said:
        return stack.allocated_bytes
    return stack.reserved_bytes
