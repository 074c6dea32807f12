"""BurstGPT: CSV with Timestamp (s), Model, Request tokens, Response tokens; later files add sessions.

Source: Wang et al., "BurstGPT: A real-world workload dataset to optimize LLM serving systems",
2024 (CC-BY-4.0). Its files note failed requests with 0 response tokens; those rows are left out
with a note. Models are numbered in order of appearance and become tenants. With a session id, a
turn waits for the one before it; what its prompt shares with that is not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.numbers import reals, whole
from windtunnel.workload.formats.trace import Trace, check_order, csv_names, csv_rows
from windtunnel.workload.sessions import link_sessions
from windtunnel.workload.table import request_table

COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens")


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read a BurstGPT trace; times are kept as they are in the file.

    Args:
        path: the CSV file.
        columns: unused; the format fixes its columns.
    """
    faults = Faults(str(path))
    has_sessions = "Session ID" in csv_names(path, faults)
    wanted = (*COLUMNS, "Session ID") if has_sessions else COLUMNS
    models: dict[str, int] = {}
    sessions: dict[str, int] = {"": -1}
    parts: list[tuple[np.ndarray, ...]] = []
    last_s = 0.0
    for rows in csv_rows(path, wanted, faults):
        get, lines = rows.columns, rows.lines
        arrival_s = reals(get["Timestamp"], lines, "Timestamp", faults)
        prompt = whole(get["Request tokens"], lines, "Request tokens", faults, least=0)
        output = whole(get["Response tokens"], lines, "Response tokens", faults, least=0)
        check_order(arrival_s, lines, last_s, "Timestamp", faults)
        last_s = float(arrival_s[-1])
        tenant = np.array([models.setdefault(name, len(models)) for name in get["Model"]])
        names = get["Session ID"] if has_sessions else [""] * len(rows)
        session = np.array([sessions.setdefault(name, len(sessions)) for name in names])
        parts.append((arrival_s, prompt, output, tenant, session))
    faults.check()
    if not parts:
        faults.fail("the trace has no requests")
    arrival_s, prompt, output, tenant, session = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = (output > 0) & (prompt > 0)
    if not kept.any():
        faults.fail("no request has both request and response tokens")
    dropped = len(kept) - int(kept.sum())
    notes = (f"{dropped:,} failed requests (0 request or response tokens) were left out",) if dropped else ()
    after = link_sessions(session[kept])
    table = request_table(arrival_s[kept], prompt[kept], output[kept], tenant=tenant[kept], after=after)
    return Trace(table, "burstgpt", notes)
