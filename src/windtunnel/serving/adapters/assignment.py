"""Which adapter each request names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from windtunnel.specs.lora import LoraSpec
from windtunnel.workload.table import RequestTable

Ints = npt.NDArray[np.int64]


def adapters_of(workload: RequestTable, spec: LoraSpec, seed: int = 0) -> Ints:
    """The adapter of every request, -1 for the model alone; the same for the same seed."""
    draw = np.random.default_rng([seed, 0x10AD])
    count = len(workload)
    if spec.popularity == "tenant":
        chosen = np.where(workload.tenant < 0, -1, workload.tenant % spec.adapters)
    elif spec.popularity == "zipf":
        weights = np.arange(1.0, spec.adapters + 1.0) ** -spec.zipf_exponent
        chosen = draw.choice(spec.adapters, size=count, p=weights / weights.sum()).astype(np.int64)
    else:
        chosen = draw.integers(spec.adapters, size=count, dtype=np.int64)
    return np.where(draw.random(count) < spec.base_share, -1, chosen)


def apart(workload: RequestTable, adapters: Ints) -> RequestTable:
    """The workload in which equal content is equal for requests of the same adapter alone.

    Keys and values depend on the adapter, so vLLM's block hashes hold its name (`_gen_lora_extra_hash_keys`).
    """
    if not workload.shares_prefixes or not len(workload):
        return workload
    mine = np.repeat(adapters, np.diff(workload.segment_offset))
    # Outputs are named like segments, as a session's next prompt holds them.
    content = np.concatenate([workload.segment_id, workload.output_id])
    owner = np.concatenate([mine, adapters])
    _, renamed = np.unique(np.stack([content, owner]), axis=1, return_inverse=True)
    renamed = renamed.reshape(-1).astype(np.int64)
    return replace(workload, segment_id=renamed[: len(mine)], output_id=renamed[len(mine) :])
