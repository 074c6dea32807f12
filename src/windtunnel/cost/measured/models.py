"""The model that a profile or a run names: the catalogue's, or the configuration that lies beside it."""

from __future__ import annotations

from pathlib import Path

from windtunnel.errors import SpecError
from windtunnel.specs.load import load
from windtunnel.specs.model import ModelSpec

CONFIGS = Path("configs") / "model"
"""Where LLMServingSim keeps Hugging Face configurations, `NAME.json`, in a folder above its profiles and runs."""


def model_named(name: str, near: Path, where: str) -> ModelSpec:
    """A model by name.

    Args:
        name: catalogue name, alias or file.
        near: the profile's or run's folder.
        where: named in the error.

    Raises:
        SpecError: the catalogue has no such model and no configuration of it lies above the folder.
    """
    try:
        found: ModelSpec = load("models", name, where)
    except SpecError:
        for above in near.resolve().parents:
            path = above / CONFIGS / f"{name}.json"
            if path.is_file():
                given: ModelSpec = load("models", str(path), where)
                return given
        raise
    return found
