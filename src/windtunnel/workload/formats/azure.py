"""Azure LLM inference traces of 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.

Source: Azure Public Dataset, CC-BY; described in Patel et al., "Splitwise: Efficient generative
LLM inference using phase splitting", ISCA 2024. The files of 2024 add a zone to the timestamp.
The files of 2023 hold no row with zero tokens (least: 2 context and 6 generated tokens). A row
that generated nothing was never decoded, so such rows are left out with a note; zero context
tokens cannot be a request and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.numbers import dates, whole
from windtunnel.workload.formats.trace import Trace, check_order, csv_rows
from windtunnel.workload.table import request_table

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read an Azure trace; time zero is the first request.

    Args:
        path: the CSV file.
        columns: unused; the format fixes its columns.
    """
    faults = Faults(str(path))
    arrivals, prompts, outputs = [], [], []
    start_ns, last_s = None, 0.0
    for rows in csv_rows(path, COLUMNS, faults):
        stamp_ns = dates(rows.columns["TIMESTAMP"], rows.lines, "TIMESTAMP", faults)
        prompts.append(whole(rows.columns["ContextTokens"], rows.lines, "ContextTokens", faults))
        outputs.append(whole(rows.columns["GeneratedTokens"], rows.lines, "GeneratedTokens", faults, least=0))
        start_ns = int(stamp_ns[0]) if start_ns is None else start_ns
        arrival_s = (stamp_ns - start_ns) / 1e9
        if not faults.problems:
            check_order(arrival_s, rows.lines, last_s, "TIMESTAMP", faults)
        last_s = float(arrival_s[-1])
        arrivals.append(arrival_s)
    faults.check()
    if not arrivals:
        faults.fail("the trace has no requests")
    arrival, prompt, output = (np.concatenate(parts) for parts in (arrivals, prompts, outputs))
    kept = output > 0
    if not kept.any():
        faults.fail("no request generated a token", column="GeneratedTokens")
    dropped = int(len(kept) - kept.sum())
    notes = (f"{dropped} requests that generated no token were left out",) if dropped else ()
    return Trace(request_table(arrival[kept], prompt[kept], output[kept]), "azure", notes)
