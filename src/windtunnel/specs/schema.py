"""JSON Schema of every spec for editors, and the reference pages generated from it."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.specs.assemble import DeploymentFile
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.hardware import PriceSpec
from windtunnel.specs.load import KINDS
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.specs.training import TrainingPlan

SCHEMAS: dict[str, type[Spec]] = {
    **KINDS,
    "plan": PlanSpec,
    "training-plan": TrainingPlan,
    "slo": SloSpec,
    "deployment": DeploymentFile,
    "prices": PriceSpec,
}
"""Every kind of file or mapping that a user writes, and its spec."""

_UNITS = {
    "_bytes_per_s": "bytes/s, or text such as `900 GB/s`, `400 Gb/s`",
    "_flops_per_s": "FLOP/s, or text such as `989 TFLOP/s`",
    "_bytes": "bytes, or text such as `80 GiB`",
    "_usd_per_h": "US dollars per hour",
    "_tokens": "tokens",
    "_per_s": "per second",
    "_hz": "Hz, or text such as `1.8 GHz`",
    "_s": "seconds, or text such as `50 ms`",
    "_w": "watts, or text such as `700 W`",
}


def _spec(kind: str) -> type[Spec]:
    if kind not in SCHEMAS:
        known = ", ".join(SCHEMAS)
        raise SpecError(Problem("unknown kind of spec", "", "", repr(kind), known, nearest(kind, SCHEMAS)))
    return SCHEMAS[kind]


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind, for editors that check YAML while it is typed."""
    schema = _spec(kind).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def reference_markdown(kind: str) -> str:
    """The reference page of a kind: one table per spec, nested ones after it."""
    spec = _spec(kind)
    lines = [f"# {kind}", "", "Generated from the schema. `extends: NAME` starts from a catalogue entry.", ""]
    queue: list[type[Spec]] = [spec]
    seen: set[type[Spec]] = {Source}
    while queue:
        current = queue.pop(0)
        if current in seen:
            continue
        seen.add(current)
        lines += [
            f"## {current.__name__}",
            "",
            (current.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " "),
            "",
        ]
        lines += ["| field | type | default | description |", "| --- | --- | --- | --- |"]
        for name, info in current.model_fields.items():
            lines.append(
                f"| `{name}` | {_type(info.annotation)}{_limits(info)} | {_default(info)} | {_describe(name, info)} |"
            )
            queue.extend(_nested(info.annotation))
        lines.append("")
    return "\n".join(lines)


def _nested(annotation: Any) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for part in typing.get_args(annotation) for spec in _nested(part)]


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in args)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is tuple:
        return f"list of {_type(args[0])}"
    if origin is dict:
        return f"mapping of {_type(args[0])} to {_type(args[1])}"
    return str(annotation)


def _limits(info: FieldInfo) -> str:
    words = {"gt": "above {}", "ge": "at least {}", "lt": "below {}", "le": "at most {}"}
    found = [
        text.format(getattr(m, key))
        for m in info.metadata
        for key, text in words.items()
        if getattr(m, key, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True) if not info.default_factory else info.default_factory()  # type: ignore[call-arg]
    if value is PydanticUndefined or isinstance(value, Spec):
        return "see below"
    return f"`{value!r}`" if value not in ("", (), {}) else "empty"


def _describe(name: str, info: FieldInfo) -> str:
    unit = next((text for suffix, text in _UNITS.items() if name.endswith(suffix)), "")
    return "; ".join(part for part in (info.description or "", unit) if part).replace("|", "\\|")
