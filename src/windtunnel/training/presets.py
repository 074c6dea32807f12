"""Named ways to lay out a training job: baselines and techniques that papers compare.

plan, engine = preset_plan("zero-3", micro_batch=4)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml
from pydantic import Field

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.training import TrainingEngine, TrainingPlan


class TrainingPreset(Spec):
    """One entry of `catalogue/training_plans.yaml`."""

    title: str
    engine: TrainingEngine
    plan: dict[str, Any] = Field(description="fields of the plan that it sets")
    source: Source


@lru_cache(maxsize=1)
def training_presets() -> dict[str, TrainingPreset]:
    """All presets by name."""
    data = yaml.safe_load(catalogue_folder("training_plans.yaml").read_text(encoding="utf-8"))
    return {name: build(TrainingPreset, entry, "catalogue/training_plans.yaml") for name, entry in data.items()}


def preset_plan(name: str, **given: Any) -> tuple[TrainingPlan, TrainingEngine]:
    """The plan and engine of a preset.

    Args:
        name: the preset.
        given: fields of the plan that the caller sets; they win over the preset's.

    Raises:
        SpecError: there is no such preset.
    """
    known = training_presets()
    if name not in known:
        raise SpecError(Problem("no such training preset", "", "preset", name, ", ".join(known), nearest(name, known)))
    found = known[name]
    return TrainingPlan(**(found.plan | given)), found.engine
