"""`windtunnel catalogue`: what is known, and where each value comes from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, command, output_problems, show, write_json


@command
def catalogue(
    kind: Annotated[
        str,
        typer.Argument(
            help="models, accelerators, nodes, fabrics, engines, workloads, prices, policies, techniques, papers; "
            "or schema."
        ),
    ] = "",
    name: Annotated[str, typer.Argument(help="One entry in full; after 'schema', the kind.")] = "",
    json_path: options.Json = None,
) -> int:
    """List what is known: models, accelerators, nodes, fabrics, engines, workloads, prices, policies, techniques,
    papers.

    `windtunnel catalogue models` lists a kind, `windtunnel catalogue models llama-3.1-8b` shows one entry with its
    sources, `windtunnel catalogue schema models` prints the JSON Schema of a kind for editors.
    """
    from windtunnel.errors import SpecError
    from windtunnel.report import catalogue as page

    if problems := output_problems(json=json_path):
        raise SpecError(problems)
    value: Any
    if not kind:
        value = page.kinds()
        text = page.kinds_text()
    elif kind == "schema":
        value = page.schema(name)
        from windtunnel.report.json import to_json

        text = to_json(value).rstrip()
    elif not name:
        value = page.entries(kind)
        text = page.entries_text(kind)
    else:
        value = page.entry(kind, name)
        text = page.entry_text(kind, name)
    show(text, json_path)
    write_json(value, json_path)
    return DONE
