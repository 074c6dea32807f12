"""What a training search answers: layouts with their step and memory, ranked, and why each stands where it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from windtunnel.specs.training import TrainingJob
from windtunnel.training.memory import MemoryStack
from windtunnel.training.memory_fits import Cluster
from windtunnel.training.step import StepTime

Objective = Literal["time", "price", "energy"]
"""time: shortest step. price: fewest dollars per token. energy: fewest joules per token."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout, priced with its pipeline played out.

    Attributes:
        job: model, cluster, batch and layout.
        step: seconds, parts, utilisation and energy of an optimiser step.
        memory: the fullest pipeline rank at its peak.
        usd_per_h: price of one accelerator, US dollars per hour.
        why: one sentence: why it is the best, why it loses, or why it cannot run.
    """

    job: TrainingJob
    step: StepTime
    memory: MemoryStack
    usd_per_h: float
    why: str = ""

    @property
    def label(self) -> str:
        """Short text such as `TP8 PP16x8 ZeRO1 mb1 bf16`."""
        return self.job.plan.label()

    @property
    def usd_per_step(self) -> float:
        """US dollars per optimiser step, all accelerators."""
        return self.usd_per_h / 3600.0 * self.job.gpus * self.step.seconds

    @property
    def usd_per_million_tokens(self) -> float:
        """US dollars per million tokens."""
        return self.usd_per_step / self.job.tokens * 1e6

    @property
    def joules_per_token(self) -> float:
        """Energy of accelerators and their servers per token."""
        return self.step.joules / self.job.tokens

    def cost(self, objective: Objective) -> float:
        """What the objective wants small: seconds, dollars or joules per token."""
        if objective == "price":
            return self.usd_per_million_tokens / 1e6
        return self.joules_per_token if objective == "energy" else self.step.seconds / self.job.tokens


@dataclass(frozen=True, slots=True)
class Rejected:
    """Layouts that lost without being listed.

    Attributes:
        reason: what they have in common.
        layouts: how many.
        example: one of them with its figures; empty when there is nothing to say.
    """

    reason: str
    layouts: int
    example: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """How far the search looked.

    Attributes:
        degrees: combinations of degrees that divide model and cluster.
        valid: layouts that can run: those whose batch divides as well, with every set of flags.
        fit: those that fit in memory; all of them have a closed-form time.
        priced: those priced with their pipeline played out.
    """

    degrees: int = 0
    valid: int = 0
    fit: int = 0
    priced: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """A run over a number of tokens, without faults.

    Attributes:
        tokens: tokens to train on.
        seconds: time of the run.
        joules: energy of accelerators and servers.
        usd: price of the accelerators.
        steps: optimiser steps.
    """

    tokens: float
    seconds: float
    joules: float
    usd: float
    steps: float


@dataclass(frozen=True, slots=True)
class TrainingAnswer:
    """The answer of `train`.

    Attributes:
        asked: the model's name as it was asked for.
        objective: what was to be small.
        best: the winner; for one given layout that layout, whether it fits or not; None when nothing fits.
        candidates: every priced layout that fits, best first.
        frontier: indices into candidates that no other beats in seconds, dollars per token, joules per token and
            memory at once.
        rejected: the others, by reason.
        counts: how far the search looked.
        smallest: when nothing fits, the smallest cluster that would hold the job in some layout.
        nearest: when nothing fits, memory of the layout that comes closest.
        budget: the run over the tokens that were asked for.
        elapsed_s: how long the search took.
        notes: what a reader should know.
        given: whether the layout was given, not searched.
        interrupted: whether the user stopped the search; the answer is then the best so far.
    """

    asked: str
    objective: Objective
    best: Candidate | None
    candidates: tuple[Candidate, ...]
    frontier: tuple[int, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    counts: Counts = Counts()
    smallest: Cluster | None = None
    nearest: MemoryStack | None = None
    budget: Budget | None = None
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()
    given: bool = False
    interrupted: bool = False

    @property
    def fits(self) -> bool:
        """Whether there is a layout that runs."""
        return self.best is not None and self.best.memory.fits


def budget_of(candidate: Candidate, tokens: float) -> Budget:
    """A run of a candidate over a number of tokens."""
    steps = tokens / candidate.job.tokens
    return Budget(
        tokens=tokens,
        seconds=candidate.step.seconds * steps,
        joules=candidate.step.joules * steps,
        usd=candidate.usd_per_step * steps,
        steps=steps,
    )
