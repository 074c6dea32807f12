"""The tail of decode attention over contexts of unequal length.

Attention that does not split contexts reads each request's keys and values, per KV head, in one lane.
While many lanes run they share the bandwidth B; a lane alone reaches only r. All lanes advance alike, so
with a(x) of them still running at position x (bytes), reading takes

    integral of max(1 / r, a(x) / B) dx  =  W / B  +  1 / r * integral of (1 - a(x) r / B)+ dx

The first term is what equal contexts of the same sum would take; the second, the tail, is what the
longest ones take when too few are left to use the bandwidth. It counts where all lanes run at once: with
more of them those that wait fill the gaps, and with fewer the kernel splits contexts and has no tail.
The rules are FlashAttention-2's: contexts are split below 0.8 of two lanes per processor; three lanes fit
on one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from windtunnel.cost.measured.table import Table
from windtunnel.operators.attention import DecodeAttention

Floats = npt.NDArray[np.float64]

UNSPLIT_LANES = 1.6
RESIDENT_LANES = 3.0
"""Lanes per processor from which contexts are not split, and up to which all run at once."""
DRAWS = 64
SEED = 11


def lane_bytes_per_token(operator: DecodeAttention) -> float:
    """Bytes that a lane reads per token of context."""
    return 2.0 * operator.head_dim * operator.kv_bytes


def has_tail(requests: float, operator: DecodeAttention, processors: int) -> bool:
    """Whether contexts of so many requests run unsplit and all at once."""
    lanes = requests * operator.kv_heads
    return UNSPLIT_LANES * processors <= lanes <= RESIDENT_LANES * processors


def lane_rate(
    skewed: Sequence[tuple[float, float, float, float, float]],
    found: Table,
    operator: DecodeAttention,
    processors: int,
    bandwidth_bytes_per_s: float,
) -> float:
    """The rate r of one lane, from launches in which a few contexts are longer than the rest; 0 when not measured.

    Args:
        skewed: (requests, long ones, short context, long context, time relative to equal contexts' time).
        found: the attention table, for the time of equal contexts.
        operator: the attention that was measured.
        processors, bandwidth_bytes_per_s: of the device.

    Returns:
        The median over the launches, each solved for r: tail = bytes / r - bytes * lanes / B.
    """
    rates = []
    for requests, long, short_tokens, long_tokens, ratio in skewed:
        if not has_tail(requests, operator, processors):
            continue
        mean = (long * long_tokens + (requests - long) * short_tokens) / requests
        tail = float(found.at(0.0, 0.0, requests, mean)) * (ratio - 1.0)
        read = (long_tokens - short_tokens) * lane_bytes_per_token(operator)
        waits = tail + read * long * operator.kv_heads / bandwidth_bytes_per_s
        if tail > 0 and np.isfinite(waits):
            rates.append(read / waits)
    return float(np.median(rates)) if rates else 0.0


def tail_per_token_s(
    requests: Floats,
    spread: Sequence[float],
    operator: DecodeAttention,
    rate: float,
    processors: int,
    bandwidth_bytes_per_s: float,
) -> Floats:
    """Expected tail per token of the mean context, for steps of so many requests.

    Args:
        requests: requests that the launch is made for, shape (n,).
        spread: contexts that requests have in a step, relative to their mean: quantiles of equal weight.
        operator: the attention, of one layer.
        rate: of one lane, bytes per second.
        processors, bandwidth_bytes_per_s: of the device.
    """
    rng = np.random.default_rng(SEED)
    per_token = lane_bytes_per_token(operator)
    tails = np.zeros(len(requests))
    for place, count in enumerate(requests):
        if not has_tail(count, operator, processors):
            continue
        drawn = np.sort(rng.choice(np.asarray(spread), size=(DRAWS, int(count))), axis=1)
        drawn /= drawn.mean(axis=1, keepdims=True)
        gaps = np.diff(drawn, axis=1)
        running = operator.kv_heads * (count - 1.0 - np.arange(int(count) - 1))
        idle = np.maximum(0.0, 1.0 - running * rate / bandwidth_bytes_per_s)
        tails[place] = per_token / rate * float((gaps * idle).sum(axis=1).mean())
    return tails
