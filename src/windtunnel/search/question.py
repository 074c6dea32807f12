"""The question that a search answers, with everything resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.table import RequestTable

CONTEXT_STEP = 1024
"""The context limit is set to the longest request, rounded up to a multiple of this."""
SEQUENCE_LIMITS = (1024,)
"""Values of `max_num_seqs` that are tried beside the engine's own, unless the user sets it."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which deployment carries this workload within these targets at the least cost?

    Attributes:
        model: what is served.
        workload: the requests, at the asked traffic.
        slo: the targets.
        accelerators: the candidates' hardware.
        max_accelerators: most accelerators of one kind.
        engine: engine settings that every candidate starts from.
        precisions: weight formats to try.
        token_budgets: values of `max_num_batched_tokens` to try.
        prices: the user's own prices by accelerator, US dollars per accelerator and hour.
        router: routing policy between replicas.
        seed: of everything random.
        techniques: published techniques that every candidate has, such as `sarathi:budget=512`.
        sequence_limits: larger values of `max_num_seqs` to try where the engine's own is reached.
    """

    model: ModelSpec
    workload: RequestTable
    slo: SloSpec
    accelerators: tuple[AcceleratorSpec, ...]
    max_accelerators: int
    engine: EngineSpec
    precisions: tuple[str, ...] = ("bf16", "fp8")
    token_budgets: tuple[int, ...] = (2048, 8192)
    prices: Mapping[str, float] = field(default_factory=dict)
    router: str = "least_outstanding"
    seed: int = 0
    sequence_limits: tuple[int, ...] = ()
    techniques: tuple[str, ...] = ()

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output that occurs, rounded up, within the model's context."""
        longest = int((self.workload.prompt_tokens + self.workload.output_tokens).max())
        rounded = -(-longest // CONTEXT_STEP) * CONTEXT_STEP
        return min(rounded, self.model.max_context_tokens)
