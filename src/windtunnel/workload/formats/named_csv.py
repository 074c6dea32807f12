"""CSV with named columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.named import match_columns, table_of_columns
from windtunnel.workload.formats.trace import Trace, csv_names, csv_rows


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read a CSV file with a header.

    Args:
        path: the file; comma, semicolon or tab separated.
        columns: meaning to column, for names that are not known; see `named.KNOWN`.
    """
    faults = Faults(str(path))
    found = match_columns(csv_names(path, faults), columns, faults)
    return table_of_columns(csv_rows(path, list(found.values()), faults), found, "named_csv", faults)
