"""Padding of steps to captured graph sizes.

A captured graph runs for the size it was captured with, so a step of fewer tokens is padded up to the
next one. vLLM captures 1, 2, 4, then every eighth size to 256 and every sixteenth beyond, up to twice
`max_num_seqs` and 512 at most (its `max_cudagraph_capture_size`); larger steps run as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.specs.engine import EngineSpec

FINE, FINE_STEP, COARSE_STEP = 256, 8, 16


def largest_capture(engine: EngineSpec) -> int:
    """Most tokens of a step that replays a graph; 0 when none does."""
    return min(engine.capture_tokens, 2 * engine.max_num_seqs) if engine.graphs else 0


def padded_tokens(tokens: int, engine: EngineSpec) -> int:
    """Tokens that the device computes for a step of so many.

    >>> padded_tokens(9, EngineSpec(name="one", capture_tokens=512))
    16
    """
    if tokens > largest_capture(engine) or tokens <= 2:
        return tokens
    if tokens <= 4:
        return 4
    step = FINE_STEP if tokens <= FINE else COARSE_STEP
    return min(-(-tokens // step) * step, largest_capture(engine))


def padding(size: int, engine: EngineSpec) -> npt.NDArray[np.int64]:
    """The same for 0 to `size` tokens, as an index."""
    return np.array([padded_tokens(tokens, engine) for tokens in range(size + 1)])
