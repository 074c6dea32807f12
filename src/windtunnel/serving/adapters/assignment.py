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
        chosen = np.asarray(workload.tenant, dtype=np.int64) % spec.adapters
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
    _, segment_id = np.unique(np.stack([workload.segment_id, mine]), axis=1, return_inverse=True)
    # Outputs continue a prompt within a session, whose requests may read them as segments.
    known = {(int(i), int(a)): int(new) for i, a, new in zip(workload.segment_id, mine, segment_id, strict=True)}
    fresh = int(segment_id.max(initial=-1)) + 1
    output_id = np.array(
        [
            known.get((int(i), int(a)), fresh + row)
            for row, (i, a) in enumerate(zip(workload.output_id, adapters, strict=True))
        ],
        dtype=np.int64,
    )
    return replace(workload, segment_id=segment_id.astype(np.int64), output_id=output_id)
