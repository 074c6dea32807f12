"""What tables of results call models, accelerators, formats and engines, in the catalogue's words."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml
from pydantic import Field

from windtunnel.errors import InputError
from windtunnel.specs.fields import Dtype, Spec
from windtunnel.specs.load import build, catalogue_folder, names, resolve


class NamedAccelerator(Spec):
    """An accelerator under a table's name."""

    accelerator: str
    power_cap_w: float = 0.0


class NamedEngine(Spec):
    """An engine and version under a table's names."""

    engine: str = Field(description="the engine's name begins with this")
    version: str = Field("", description="the version begins with this")
    mode: str = Field("", description="only in this mode")
    architecture: str = Field("", description="only on accelerators of this architecture")
    preset: str


class NamedNode(Spec):
    """The server that a source measured on."""

    source: str = Field(description="the source begins with this")
    accelerator: str
    node: str


class PerAccelerator(Spec):
    """A metric that a table gives per accelerator without saying so in its name."""

    engine: str
    version: str
    metric: str


class Names(Spec):
    """The packaged dictionary `catalogue/evidence/names.yaml`."""

    accelerators: dict[str, NamedAccelerator]
    models: dict[str, str]
    dtypes: dict[str, Dtype]
    engines: tuple[NamedEngine, ...]
    nodes: tuple[NamedNode, ...] = ()
    per_accelerator: tuple[PerAccelerator, ...] = ()


@lru_cache(maxsize=1)
def dictionary() -> Names:
    """The packaged dictionary."""
    text = (catalogue_folder("evidence") / "names.yaml").read_text(encoding="utf-8")
    data: Any = yaml.safe_load(text)
    return build(Names, data, "catalogue/evidence/names.yaml")


@lru_cache(maxsize=4096)
def accelerator_named(label: str) -> tuple[str, float] | None:
    """(catalogue name, power cap in watts or 0) of an accelerator, or None when unknown."""
    known = dictionary().accelerators.get(label)
    if known is not None:
        return known.accelerator, known.power_cap_w
    found = _resolved("accelerators", label)
    return (found, 0.0) if found else None


@lru_cache(maxsize=4096)
def model_named(label: str) -> str:
    """Catalogue name of a model, or an empty string when unknown."""
    return dictionary().models.get(label) or _resolved("models", label)


def dtype_named(label: str, default: Dtype | None = None) -> Dtype | None:
    """Number format of a label; an empty label takes the default."""
    return default if not label else dictionary().dtypes.get(label)


@lru_cache(maxsize=4096)
def engine_named(engine: str, version: str, mode: str, accelerator: str) -> str:
    """Preset of an engine and version in a mode on an accelerator, or an empty string when there is none."""
    architecture = resolve("accelerators", accelerator).architecture
    for entry in dictionary().engines:
        begins = engine.casefold().startswith(entry.engine.casefold())
        fits = entry.mode in ("", mode) and entry.architecture in ("", architecture)
        if begins and version.startswith(entry.version) and fits:
            return entry.preset if entry.preset in names("engines") else ""
    return ""


@lru_cache(maxsize=4096)
def node_named(source: str, accelerator: str) -> str:
    """The server that a source measured an accelerator in, or an empty string for the usual one."""
    found = (n.node for n in dictionary().nodes if source.startswith(n.source) and n.accelerator == accelerator)
    return next(found, "")


def is_per_accelerator(engine: str, version: str, metric: str) -> bool:
    """Whether a figure is per accelerator: by its metric's name, or known of the table."""
    known = dictionary().per_accelerator
    return metric.endswith("_per_gpu") or any(
        engine == one.engine and version.startswith(one.version) and metric == one.metric for one in known
    )


def _resolved(kind: str, label: str) -> str:
    try:
        return str(resolve(kind, label).name)
    except InputError:
        return ""
