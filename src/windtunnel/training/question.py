"""What a training search is asked: a job on one or more clusters, what to try, and what is to be small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import yaml

from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.training import Offload, Schedule, TrainingEngine, TrainingJob
from windtunnel.training.answer import Objective

DEGREES = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "expert_parallel",
    "expert_tensor_parallel",
    "virtual_stages",
    "micro_batch",
)
"""Fields of the plan that differ between layouts with the same flags."""


class EngineFeatures(Spec):
    """What an engine can run; one entry of `catalogue/training_engines.yaml`."""

    tensor: bool
    schedules: tuple[Schedule, ...]
    zero: tuple[int, ...]
    staged_zero: tuple[int, ...]
    grouped_zero: tuple[int, ...]
    context_methods: tuple[str, ...]
    expert: bool
    expert_tensor: bool
    tensor_overlap: bool
    recompute: tuple[str, ...]
    offload: dict[str, tuple[Offload, ...]] = {}
    context_alone: bool = False
    staged_expert: bool = True
    even_stages: bool = False
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def engine_features() -> dict[TrainingEngine, EngineFeatures]:
    """Every engine's features."""
    name = "training_engines.yaml"
    data = yaml.safe_load(catalogue_folder(name).read_text(encoding="utf-8"))
    return {engine: build(EngineFeatures, entry, f"catalogue/{name}") for engine, entry in data.items()}


@dataclass(frozen=True, slots=True)
class TrainingQuestion:
    """A question to the search.

    Attributes:
        clusters: the job on every cluster that may be used: one model, batch and engine; accelerators and their
            number may differ. Flags of their plan hold for all layouts unless `wanted` or the search varies them.
        objective: what is to be small.
        wanted: fields of the plan and the values to try, in place of the search's own choice.
        prices: the user's own US dollars per accelerator and hour, by accelerator name.
        tokens: a token budget.
        asked: the model's name as it was asked for.
    """

    clusters: tuple[TrainingJob, ...]
    objective: Objective = "time"
    wanted: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    tokens: float | None = None
    asked: str = ""

    @property
    def features(self) -> EngineFeatures:
        """What the engine can run."""
        return engine_features()[self.clusters[0].engine]
