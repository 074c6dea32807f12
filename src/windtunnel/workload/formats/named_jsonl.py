"""JSONL with named keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.named import NEEDED, match_columns, table_of_columns
from windtunnel.workload.formats.trace import ROWS_AT_ONCE, Rows, Trace, json_objects, missing_key


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read a file of one JSON object per line.

    Args:
        path: the file.
        columns: meaning to key, for names that are not known; see `named.KNOWN`.
    """
    faults = Faults(str(path))
    head = next(json_objects(path, Faults(str(path))), None)
    if head is None:
        for _ in json_objects(path, faults):
            pass
        faults.fail("the trace has no requests")
    found = match_columns(list(head[1]), columns, faults)
    return table_of_columns(_pieces(path, found, faults), found, "named_jsonl", faults)


def _pieces(path: Path, found: Mapping[str, str], faults: Faults) -> Iterator[Rows]:
    objects = json_objects(path, faults)
    needed = [column for meaning, column in found.items() if meaning in NEEDED]
    while piece := list(islice(objects, ROWS_AT_ONCE)):
        kept: list[tuple[int, dict[str, Any]]] = []
        for line, row in piece:
            missing = [name for name in needed if name not in row]
            for name in missing:
                missing_key(row, line, name, faults)
            if not missing:
                kept.append((line, row))
        if kept:
            yield Rows(
                [line for line, _ in kept], {name: [row.get(name) for _, row in kept] for name in found.values()}
            )
