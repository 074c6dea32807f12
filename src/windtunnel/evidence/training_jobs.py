"""Rows of published training tables as jobs: names, layouts, and what their sources leave unsaid."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

import yaml
from pydantic import Field

from windtunnel.errors import Problem, SpecError
from windtunnel.evidence.table import Row
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import NodeSpec
from windtunnel.specs.load import build, catalogue_folder, names, resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingEngine, TrainingJob, TrainingPlan
from windtunnel.specs.training_check import training_job

FlopCount = Literal["causal", "causal_ungated", "square", "square_recomputed", "all_parameters_square", "sc21"]
"""How a source counts the FLOPs of a token for its TFLOP/s and MFU figures (`training_figures_of`)."""


class Variant(Spec):
    """What a source does for some of its rows; an empty list means any.

    Attributes:
        models, gpus, formats: as the rows call them.
        releases: beginnings of the release that the row's source names in square brackets.
        notes: text that the row's notes contain.
        layout: columns and the whole numbers that they hold, such as `ep: 8`.
        flops: how these rows count FLOPs; empty as the recipe.
        plan: fields of the plan, over the recipe's and earlier variants'.
        node: the server, in place of the recipe's.
        why: where the settings come from.
    """

    models: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    releases: tuple[str, ...] = ()
    notes: str = ""
    layout: dict[str, int] = {}
    flops: FlopCount | None = None
    plan: dict[str, Any] = {}
    node: dict[str, Any] = {}
    why: str

    def holds(self, row: Row) -> bool:
        """Whether a row is one of these."""
        release = row.text("source").rpartition("[")[2]
        return (
            (not self.models or row.text("model") in self.models)
            and (not self.gpus or row.text("gpu") in self.gpus)
            and (not self.formats or row.text("dtype").lower() in self.formats)
            and (not self.releases or release.startswith(self.releases))
            and self.notes in row.text("notes")
            and all(row.count(column, 1) == number for column, number in self.layout.items())
        )


class Recipe(Spec):
    """What a source does that its rows do not say.

    Attributes:
        source: rows whose source contains this text.
        engine: whose habits fill the rest.
        flops: how the source counts FLOPs.
        plan: fields of the plan; `tp` stands for "where tensor parallel", `dense` for "where there are no experts".
        node: the server, where it is not the accelerator's usual one, with the fields that differ.
        variants: what holds for some of the rows only; later ones over earlier ones.
        why: where the settings come from.
    """

    source: str
    engine: TrainingEngine
    flops: FlopCount = "causal"
    plan: dict[str, Any] = {}
    node: dict[str, Any] = {}
    variants: tuple[Variant, ...] = ()
    why: str

    def of(self, row: Row) -> Recipe:
        """The recipe of one row: its variants put into it."""
        held = [one for one in self.variants if one.holds(row)]
        if not held:
            return self
        plan = self.plan | {name: value for one in held for name, value in one.plan.items()}
        flops = next((one.flops for one in reversed(held) if one.flops), self.flops)
        node = next((one.node for one in reversed(held) if one.node), self.node)
        return self.model_copy(update={"plan": plan, "flops": flops, "node": node})


class TrainingNames(Spec):
    """The packaged dictionary `catalogue/evidence/training.yaml`."""

    models: dict[str, str]
    prefixes: dict[str, str] = {}
    accelerators: dict[str, str] = {}
    formats: dict[str, str]
    recipes: tuple[Recipe, ...] = Field(min_length=1)


@lru_cache(maxsize=1)
def dictionary() -> TrainingNames:
    """The packaged dictionary."""
    text = catalogue_folder("evidence").joinpath("training.yaml").read_text(encoding="utf-8")
    return build(TrainingNames, yaml.safe_load(text), "catalogue/evidence/training.yaml")


def recipe_of(row: Row) -> Recipe | None:
    """The recipe of a row's source, as it holds for this row."""
    source = row.text("source")
    return next((one.of(row) for one in dictionary().recipes if one.source in source), None)


def job_of(row: Row) -> TrainingJob:
    """The job that a row describes.

    Raises:
        SpecError: the row does not say enough, or names what the catalogue does not know.
    """
    recipe = recipe_of(row)
    if recipe is None:
        raise SpecError("how this source trains is not known (no recipe)")
    model = _model(row.text("model"))
    batch = row.count("global_batch") or _batch_by_accumulation(row)
    return training_job(
        model.name,
        _accelerator(row.text("gpu")),
        gpus=_stated(row, "n_gpus"),
        global_batch_sequences=batch,
        seq_len=_stated(row, "seq_len"),
        plan=TrainingPlan(**_plan(row, recipe, model)),
        node=_node(recipe),
        engine=recipe.engine,
    )


def _stated(row: Row, column: str) -> int:
    value = row.count(column)
    if not value:
        raise SpecError(f"{column} is not stated")
    return value


def _batch_by_accumulation(row: Row) -> int:
    """Sequences of a step where only the microbatch is stated: one microbatch a data-parallel rank."""
    ranks = _stated(row, "n_gpus") // (row.count("tp", 1) * row.count("pp", 1) * row.count("cp", 1))
    return _stated(row, "micro_batch") * max(ranks, 1)


def _model(name: str) -> ModelSpec:
    known = dictionary()
    found = known.models.get(name, "")
    for prefix, ours in known.prefixes.items():
        if not found and name.startswith(prefix):
            found = ours + name.removeprefix(prefix).lower()
    if not found or found not in names("models"):
        try:
            spec: ModelSpec = resolve("models", found or name)
        except SpecError:
            raise SpecError(f"model {name!r} is not in the catalogue") from None
        return spec
    known_spec: ModelSpec = resolve("models", found)
    return known_spec


def _accelerator(name: str) -> str:
    try:
        return str(resolve("accelerators", dictionary().accelerators.get(name, name)).name)
    except SpecError:
        raise SpecError(f"accelerator {name!r} is not in the catalogue") from None


def _node(recipe: Recipe) -> NodeSpec | None:
    if not recipe.node:
        return None
    given = dict(recipe.node)
    base: NodeSpec = resolve("nodes", str(given.pop("name")))
    changed = base.model_dump(mode="python") | given
    return build(NodeSpec, changed, f"catalogue/evidence/training.yaml: {recipe.source}: node")


def _plan(row: Row, recipe: Recipe, model: ModelSpec) -> dict[str, Any]:
    """The plan's fields: the recipe's, under those that the row states."""
    tp, pp = row.count("tp", 1), row.count("pp", 1)
    words = {"tp": tp > 1, "dense": model.moe is None}
    fields = {name: words.get(value, value) if isinstance(value, str) else value for name, value in recipe.plan.items()}
    micro = row.count("micro_batch", 1)
    virtual = row.count("vpp") or int(fields.pop("virtual_stages", 1))
    if recipe.engine == "torchtitan":
        virtual = 2 if "nterleaved" in row.text("notes") else 1
        micro = max(1, micro // (pp * virtual)) if pp > 1 else micro
        if "sync" in row.text("notes").split("TP")[0]:
            fields["tp_overlap"] = tp > 1
    fields |= {
        "tensor_parallel": tp,
        "pipeline_parallel": pp,
        "virtual_stages": virtual if pp > 1 else 1,
        "context_parallel": row.count("cp", 1),
        "expert_parallel": row.count("ep", 1),
        "micro_batch": micro,
        "compute_dtype": _format(row.text("dtype")),
    }
    fields.pop("virtual_stages") if pp == 1 else None
    fields |= _sharding(row, fields)
    fields |= _recompute(row, recipe, fields)
    return fields


def _format(text: str) -> str:
    word = text.lower().split(" ")[0]
    found = dictionary().formats.get(word)
    if found is None:
        raise SpecError(Problem("unknown number format", "", "dtype", repr(text)))
    return found


def _sharding(row: Row, fields: dict[str, Any]) -> dict[str, Any]:
    """ZeRO stage and the ranks that share its states, as the row says."""
    text = row.text("zero_stage")
    group = re.search(r"zero1=(-?\d+)", text)
    found: dict[str, Any] = {}
    sharded = re.match(r"FSDP (\d+)", text)
    if sharded is not None:
        found |= {"zero_stage": 3, "zero_group": int(sharded.group(1))}
    if text[:1].isdigit() and "zero_stage" not in fields:
        found["zero_stage"] = int(text[0])
    if group is not None:
        found["zero_group"] = max(int(group.group(1)), 0)
    return found


def _recompute(row: Row, recipe: Recipe, fields: dict[str, Any]) -> dict[str, Any]:
    """Recomputation as the row says; sources that leave it to their recipes keep the recipe's."""
    text = row.text("recompute").lower()
    if "recompute" in fields:
        return {}
    if "full" in text or "true" in text:
        full: dict[str, Any] = {"recompute": "full"}
        if recipe.source == "calculon":
            full["sequence_parallel"] = False
        return full
    stated = "selective" in text and "none" not in text and "see" not in text
    return {"recompute": "selective" if stated else "none"}
