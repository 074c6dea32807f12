"""The deployment that the flags ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.cli.given import Given
from windtunnel.errors import Problem

if TYPE_CHECKING:
    from windtunnel.specs.deployment import DeploymentSpec

PLAN = {
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "ep": "expert_parallel",
    "replicas": "replicas",
    "weights": "weight_dtype",
    "kv": "kv_dtype",
}
"""Flags and the plan's fields they set."""
ENGINE = {
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_model_len": "max_model_len",
    "gpu_memory_utilization": "memory_utilization",
}
"""Flags and the engine's fields they set."""
_COMMAND_LINE = "command line"
"""Stands for the file where a deployment comes from flags."""
DEPLOYMENT = ("deployment", "model", "accelerator", "node", "engine", "technique", *PLAN, *ENGINE)
"""Fields that say what is deployed."""


def read_deployment(given: Given) -> DeploymentSpec | None:
    """The deployment from a file with flags laid over it; None when something was wrong (kept in `given`)."""
    from windtunnel.specs.assemble import deployment_of
    from windtunnel.specs.load import read_yaml
    from windtunnel.techniques.apply import with_techniques

    file = given.text("deployment")
    before = len(given.problems)
    data: dict[str, Any] = {}
    found = None
    with given:
        if file:
            data = dict(read_yaml(Path(file)))
        for name in ("model", "accelerator", "node", "engine"):
            if given.has(name):
                data[name] = given.raw(name)
        for name in ("model", "accelerator"):
            if name not in data:
                given.wrong(name, "is missing", f"a name from `windtunnel catalogue {name}s`, or --deployment FILE")
        if "model" in data and "accelerator" in data:
            found = deployment_of(_with_flags(data, given), file or _COMMAND_LINE)
            found = with_techniques(found, where=_techniques_of(given, file))
    given.problems[before:] = [_at_flag(problem) for problem in given.problems[before:]]
    return found


def asked_model(given: Given) -> str:
    """The model's name as the user gave it, by flag or in the deployment's file; empty for a mapping."""
    from windtunnel.specs.load import read_yaml

    name = given.raw("model")
    if name is None and given.has("deployment"):
        name = read_yaml(Path(given.text("deployment"))).get("model")
    return name if isinstance(name, str) else ""


def _at_flag(problem: Problem) -> Problem:
    """A problem that names the flag, where the value came from the command line."""
    place = ": ".join(part for part in (problem.file, problem.path) if part)
    if not place.startswith(_COMMAND_LINE):
        return problem
    field = place.removeprefix(_COMMAND_LINE).replace(": ", ".").strip(".")
    flags = {f"plan.{name}": flag for flag, name in PLAN.items()} | {f"engine.{name}": f for f, name in ENGINE.items()}
    flag = flags.get(field, field.split(".")[0])
    return replace(problem, file="--" + flag.replace("_", "-"), path="")


def _with_flags(data: dict[str, Any], given: Given) -> dict[str, Any]:
    """The deployment's mapping with the plan's and the engine's flags in their places."""
    plan = {field: given.raw(flag) for flag, field in PLAN.items() if given.has(flag)}
    engine = {field: given.raw(flag) for flag, field in ENGINE.items() if given.has(flag)}
    if plan or "plan" in data:
        data["plan"] = {**_own_format(data), **(data.get("plan") or {}), **plan}
    if engine:
        base = data.get("engine", "vllm")
        data["engine"] = {**(base if isinstance(base, dict) else {"extends": base}), **engine}
    if given.has("technique"):
        data["techniques"] = given.words("technique")
    return data


def _techniques_of(given: Given, file: str) -> str:
    """Where the techniques were asked for."""
    return given.where("technique") if given.has("technique") or not file else f"{file}: techniques"


def _own_format(data: dict[str, Any]) -> dict[str, Any]:
    """The weight format of a model that is published quantised; weights stay as published unless asked."""
    from windtunnel.errors import SpecError
    from windtunnel.specs.load import load

    if not isinstance(data["model"], str):
        return {}
    try:
        native = load("models", data["model"]).dtype
    except SpecError:
        return {}  # reported where the whole deployment is read
    return {"weight_dtype": native} if native in ("fp8", "int4", "mxfp4") else {}
