"""How many KV blocks a request holds, when every layer keeps everything.

`windowed.py` stands in the place of this module where some layers keep a sliding window only.
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined

FROM_TICK = True
"""Whether a decoding request needs a block exactly when its tokens fill one, so that `phase` counts them."""


@inlined
def blocks_of(world: Any, before: int, tokens: int) -> int:
    """Blocks held in a step that computes `tokens` after `before` computed ones."""
    return int((before + tokens + world.block_size - 1) // world.block_size)


@inlined
def blocks_whole(world: Any, tokens: int) -> int:
    """Blocks that must be free for a request of this many tokens to be admitted."""
    return int((tokens + world.block_size - 1) // world.block_size)
