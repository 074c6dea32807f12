"""Who uses each block's content next: what Belady's eviction knows in advance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.serving import state
from windtunnel.serving.content import extend_keys
from windtunnel.serving.jit import cached_entry, rows

NEVER_AGAIN = (1 << 31) - 1
"""No later request uses it."""


@cached_entry
def _all_keys(world_rows: Any, requests: Any, segments: Any, slots: Any, cells: Any, keys: Any) -> None:
    """The keys of every request's blocks, one request after another."""
    world = world_rows[0]
    slot = slots[0]
    for i in range(len(requests)):
        last = requests[i + 1].first_block if i + 1 < len(requests) else len(keys)
        count = last - requests[i].first_block
        slot.request = i
        slot.keys = 0
        slot.segment = requests[i].segment
        slot.segment_used = 0
        extend_keys(world, requests, slot, cells, segments, count)
        for position in range(count):
            keys[requests[i].first_block + position] = cells[position].key


def foresee(world: Any, requests: Any, segments: Any, block_size: int) -> npt.NDArray[Any]:
    """The segments with the next user of every block beside them; sets `first_block` of the requests.

    The next user is the next row of the table; between replicas no difference is made.
    """
    tokens = requests["prompt"] + requests["output"] - 1
    counts = np.maximum(tokens, 0) // block_size
    ends = np.cumsum(counts)
    requests["first_block"] = ends - counts
    total = int(ends[-1]) if len(ends) else 0
    keys = np.zeros(total, dtype=np.int64)
    slots, cells = np.zeros(1, dtype=state.SLOT), np.zeros(int(counts.max(initial=0)) + 1, dtype=state.CELL)
    foreseen = np.zeros(max(total, len(segments)), dtype=state.FORESEEN_SEGMENT)
    for name in ("content", "tokens"):
        foreseen[name][: len(segments)] = segments[name]
    _all_keys(rows(world), rows(requests), rows(segments), rows(slots), rows(cells), keys)
    order = np.argsort(keys, kind="stable")  # equal contents beside each other, in the order of their requests
    owner = np.repeat(np.arange(len(requests)), counts)
    following = np.full(total, NEVER_AGAIN, dtype=np.int64)
    same = keys[order][1:] == keys[order][:-1]
    following[order[:-1][same]] = owner[order[1:][same]]
    foreseen["again"][:total] = following
    return foreseen
