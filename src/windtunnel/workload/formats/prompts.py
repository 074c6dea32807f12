"""Data sets of texts: JSONL with `prompt` and, for vLLM's custom data sets, `output_tokens`.

There is no tokenizer here: prompts are estimated at `CHARACTERS_PER_TOKEN` characters per token.
Without `output_tokens` the answer must stand in `completion`, `response` or `output`. There are
no times: all requests come at zero unless the workload names arrivals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.workload.faults import Faults
from windtunnel.workload.formats.numbers import whole
from windtunnel.workload.formats.sharegpt import CHARACTERS_PER_TOKEN, tokens_of_text
from windtunnel.workload.formats.trace import Trace, json_objects, missing_key
from windtunnel.workload.table import request_table

_COUNTS = ("output_tokens", "output_tokens_count", "output_length")
_TEXTS = ("completion", "response", "output")


def read(path: Path, columns: Mapping[str, str]) -> Trace:
    """Read a data set of prompts, all at time zero.

    Args:
        path: the JSONL file.
        columns: unused; the format fixes its keys.
    """
    faults = Faults(str(path))
    lines: list[int] = []
    prompts: list[Any] = []
    outputs: list[Any] = []
    for line, row in json_objects(path, faults):
        text = row.get("prompt")
        if not isinstance(text, str) or not text:
            faults.add("missing or empty text", line, "prompt", text, "the text of the prompt")
            continue
        count = next((row[name] for name in _COUNTS if name in row), None)
        answer = next((row[name] for name in _TEXTS if isinstance(row.get(name), str)), None)
        if count is None and answer is None:
            missing_key(row, line, "output_tokens", faults)
            continue
        lines.append(line)
        prompts.append(tokens_of_text(text))
        outputs.append(count if count is not None else tokens_of_text(answer or ""))
    prompt = whole(prompts, lines, "prompt", faults)
    output = whole(outputs, lines, "output_tokens", faults)
    faults.check()
    if not lines:
        faults.fail("the trace has no requests")
    notes = (
        f"prompt lengths are estimated at {CHARACTERS_PER_TOKEN:g} characters per token",
        "the file has no times: every request comes at zero",
    )
    return Trace(request_table(np.zeros(len(lines)), prompt, output), "prompts", notes)
