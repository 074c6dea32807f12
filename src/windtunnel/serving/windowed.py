"""How many KV blocks a request holds when some layers keep a sliding window only (for `footprint.py`).

Layers are put into groups of equal size, each with a block table of its own; a block belongs to one
group. A request holds a block of every group for each `block_size` tokens, but gives back those of a
windowed group in which no token is within `kv_window` of the next one, when the next step is composed
(vLLM 0.32, vllm/v1/core/single_type_kv_cache_manager.py, `SlidingWindowManager`).
"""

from __future__ import annotations

from typing import Any

from windtunnel.serving.jit import inlined

FROM_TICK = False


@inlined
def blocks_of(world: Any, before: int, tokens: int) -> int:
    """Blocks held, all groups together, in a step that computes `tokens` after `before` computed ones."""
    total = (before + tokens + world.block_size - 1) // world.block_size
    passed = max(0, before - world.kv_window + 1) // world.block_size
    return int(world.full_groups * total + world.window_groups * (total - passed))


@inlined
def blocks_whole(world: Any, tokens: int) -> int:
    """Blocks that must be free to admit a request: a windowed group never holds more than its window and a step."""
    total = (tokens + world.block_size - 1) // world.block_size
    most = (world.kv_window - 1 + world.budget + world.block_size - 1) // world.block_size + 1
    return int(world.full_groups * total + world.window_groups * min(total, most))
