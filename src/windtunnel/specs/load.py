"""Find and load specs: catalogue names and YAML files with `extends`, all mistakes reported together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from windtunnel.errors import InputError, Problem, SpecError, nearest, shorten
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.workload import WorkloadSpec

S = TypeVar("S", bound=Spec)

KINDS: dict[str, type[Spec]] = {
    "models": ModelSpec,
    "accelerators": AcceleratorSpec,
    "nodes": NodeSpec,
    "fabrics": FabricSpec,
    "engines": EngineSpec,
    "workloads": WorkloadSpec,
}
"""Catalogue folders that hold one spec per file, and the spec each file is."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def catalogue_folder(kind: str) -> Traversable:
    """The packaged folder of a kind, such as `models`."""
    return files("windtunnel") / "catalogue" / kind


@cache
def names(kind: str) -> tuple[str, ...]:
    """Catalogue names of a kind, sorted."""
    folder = catalogue_folder(kind)
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


@cache
def _entry(kind: str, name: str) -> Spec:
    data = read_catalogue_yaml(kind, name)
    return build(KINDS[kind], _extended(data, kind, f"catalogue/{kind}/{name}.yaml"), f"catalogue/{kind}/{name}.yaml")


@cache
def _aliases(kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names(kind):
        for alias in (name, *getattr(_entry(kind, name), "aliases", ())):
            found[alias.casefold()] = name
    return found


def resolve(kind: str, name: str, where: str = "") -> Any:
    """The catalogue entry of a kind by name or alias (case does not matter).

    Args:
        kind: a key of `KINDS`.
        name: catalogue name or alias, such as `meta-llama/Llama-3.1-8B`.
        where: flag or file for the error message.

    Raises:
        SpecError: no such entry; says the nearest name.
    """
    if name in names(kind):
        return _entry(kind, name)
    known = _aliases(kind)
    if name.casefold() in known:
        return _entry(kind, known[name.casefold()])
    spelled = {alias: alias for entry in names(kind) for alias in (entry, *getattr(_entry(kind, entry), "aliases", ()))}
    noun = kind.removesuffix("s")
    hint = f"one of {len(names(kind))} names (`windtunnel catalogue {kind}` lists them) or a file"
    raise SpecError(Problem(f"unknown {noun}", where, "", repr(name), hint, nearest(name, spelled)))


def read_catalogue_yaml(kind: str, name: str) -> dict[str, Any]:
    """The mapping in a packaged file, as written there."""
    path = catalogue_folder(kind) / f"{name}.yaml"
    return _parse_yaml(path.read_text(encoding="utf-8"), f"catalogue/{kind}/{name}.yaml")


def load(kind: str, name_or_path: str, where: str = "") -> Any:
    """A spec of a kind from a catalogue name, or from a file when the text names one.

    Files are YAML; a model may also be a Hugging Face config.json or the folder that holds it.
    """
    path = Path(name_or_path)
    if kind == "models" and (path.suffix == ".json" or (path / "config.json").is_file()):
        from windtunnel.specs.hf_config import read_hf_config  # it builds specs with this module

        return read_hf_config(path)
    if path.suffix in (".yaml", ".yml") or (path.is_file() and path.suffix != ".json"):
        return build(KINDS[kind], _beside(_extended(read_yaml(path), kind, str(path)), path), str(path))
    return resolve(kind, name_or_path, where)


def _beside(data: dict[str, Any], file: Path) -> dict[str, Any]:
    """The fields of a file with the folder of its measured kernels, when it lies beside it, as a path from here."""
    folder = data.get("kernels")
    if not isinstance(folder, str) or not folder or not (file.parent / folder).exists():
        return data
    return {**data, "kernels": str(file.parent / folder)}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SpecError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(Problem(f"cannot read the file ({error.strerror or error})", str(path))) from None
    except UnicodeDecodeError:
        raise SpecError(Problem("the file is not UTF-8 text", str(path))) from None
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, file: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        path = f"line {mark.line + 1}" if mark else ""
        raise SpecError(Problem(f"not valid YAML ({getattr(error, 'problem', error)})", file, path)) from None
    if not isinstance(data, dict):
        raise SpecError(Problem("the file must hold a mapping of fields", file, got=type(data).__name__))
    return data


def _extended(data: dict[str, Any], kind: str, file: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Resolve `extends: NAME`: the fields of the named entry, or of a file beside this one, under this one's."""
    if "extends" not in data:
        return data
    parent = str(data["extends"])
    base: dict[str, Any]
    if parent.endswith((".yaml", ".yml")):
        path = Path(file).parent / parent
        chain = (*seen, str(Path(file).resolve()))
        if str(path.resolve()) in chain:
            circle = " -> ".join((*chain, str(path.resolve())))
            raise SpecError(Problem("`extends` goes round in a circle", file, "extends", circle))
        base = _extended(read_yaml(path), kind, str(path), chain)
    else:
        base = resolve(kind, parent, f"{file}: extends").model_dump(exclude_unset=True)
        base.pop("aliases", None)
    return merged(base, {key: value for key, value in data.items() if key != "extends"})


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mappings merged key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def build(spec: type[S], data: Mapping[str, Any], file: str) -> S:
    """Validate a mapping as a spec.

    Raises:
        SpecError: every mistake in the mapping, each with its path, value and what is allowed.
    """
    try:
        return spec.model_validate(dict(data))
    except ValidationError as error:
        raise SpecError(problems_of(error, spec, file)) from None


def problems_of(error: ValidationError, spec: type[Spec], file: str) -> list[Problem]:
    """pydantic's error list as Windtunnel's problems, with the nearest field for unknown keys."""
    found = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        got = "" if item["type"] == "missing" or not item["loc"] else shorten(item["input"])
        allowed = close = ""
        if item["type"] == "extra_forbidden":
            fields = _fields_at(spec, item["loc"][:-1])
            message = "unknown field"
            allowed, close = ", ".join(sorted(fields)), nearest(str(item["loc"][-1]), fields)
            got = repr(item["loc"][-1])
        elif item["type"] == "literal_error":
            allowed = str(item["ctx"]["expected"])
            options = [option.strip().strip("'") for option in allowed.replace(" or ", ",").split(",")]
            message, close = "not an allowed value", nearest(str(item["input"]), options)
        found.append(Problem(message[:1].lower() + message[1:], file, path, got, allowed, close))
    return found


def _fields_at(spec: type[Spec], path: Iterable[int | str]) -> list[str]:
    current: Any = spec
    for part in path:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
        current = next(
            (
                a
                for a in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(a, type) and issubclass(a, Spec)
            ),
            current,
        )
    return sorted(getattr(current, "model_fields", {}))


class Collector:
    """Gathers the problems of several loads so that they are reported together.

    >>> collect = Collector()
    >>> with collect: resolve("models", "nothing-like-it")
    >>> len(collect.problems)
    1
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InputError):
            self.problems.extend(error.problems)
            return True
        return False

    def check(self) -> None:
        """Raise a `SpecError` with everything gathered, if anything was."""
        if self.problems:
            raise SpecError(self.problems)
