"""JSON Schema and reference pages of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from windtunnel.errors import SpecError
from windtunnel.specs.schema import SCHEMAS, json_schema, reference_markdown


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schema_is_whole(kind: str) -> None:
    schema = json_schema(kind)
    assert json.loads(json.dumps(schema)) == schema
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(SCHEMAS[kind].model_fields)
    defined = {f"#/$defs/{name}" for name in schema.get("$defs", {})}
    assert set(_references(schema)) <= defined


@pytest.mark.parametrize("kind", SCHEMAS)
def test_page_names_every_field(kind: str) -> None:
    page = reference_markdown(kind)
    assert page.startswith(f"# {kind}\n")
    for name in SCHEMAS[kind].model_fields:
        assert f"| `{name}` |" in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)


def test_units_are_told() -> None:
    assert "| `limit_s` | float (above 0" in reference_markdown("slo")
    assert "such as `80 GiB`" in reference_markdown("accelerators")


def test_unknown_kind() -> None:
    with pytest.raises(SpecError, match="did you mean 'models'"):
        json_schema("model")
