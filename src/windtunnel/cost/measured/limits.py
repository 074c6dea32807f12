"""Speed of light at the points of a table, to tell a wrong unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from windtunnel.cost.measured.kernels import Key
from windtunnel.cost.measured.table import Table
from windtunnel.operators.operator import ACTIVATION_BYTES
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.hardware import AcceleratorSpec


def key_limits_s(key: Key, found: Table, device: AcceleratorSpec) -> dict[tuple[float, ...], float]:
    """Seconds that the hardware needs at least, by point; empty where only activations or messages move.

    Args:
        key: as `kernels.key_of` gives it.
        found: its table.
        device: what it was measured on.
    """
    limit = _LIMITS.get(str(key[0]))
    return {sizes: limit(key[1:], sizes, device) for sizes in found.points} if limit else {}


def _peak(device: AcceleratorSpec, dtype: str) -> float:
    peaks = {str(name): float(rate) for name, rate in device.peak_flops_per_s.items()}
    return peaks.get(dtype, max(peaks.values()))


def _product_s(shape: tuple[Any, ...], sizes: tuple[float, ...], device: AcceleratorSpec) -> float:
    n, k, stored, computed = shape
    weights = n * k * DTYPE_BYTES[stored] / device.memory_bandwidth_bytes_per_s
    return float(max(weights, 2.0 * sizes[0] * n * k / _peak(device, computed)))


def _attention_s(shape: tuple[Any, ...], sizes: tuple[float, ...], device: AcceleratorSpec) -> float:
    q_heads, kv_heads, head_dim, kv_bytes = shape
    chunk, start, requests, context = sizes
    pairs = chunk * start + chunk * (chunk + 1) / 2 + requests * context
    cached = 2.0 * kv_heads * head_dim * kv_bytes * requests * context
    flops = 4.0 * q_heads * head_dim * pairs
    return float(max(cached / device.memory_bandwidth_bytes_per_s, flops / _peak(device, "bf16")))


def _experts_s(shape: tuple[Any, ...], sizes: tuple[float, ...], device: AcceleratorSpec) -> float:
    per_token, hidden, ffn, matrices, stored, computed = shape
    tokens, visited = sizes
    each = matrices * hidden * ffn
    read = visited * each * DTYPE_BYTES[stored] + tokens * hidden * ACTIVATION_BYTES
    flops = 2.0 * tokens * per_token * each
    return float(max(read / device.memory_bandwidth_bytes_per_s, flops / _peak(device, computed)))


_LIMITS: dict[str, Callable[[tuple[Any, ...], tuple[float, ...], AcceleratorSpec], float]] = {
    "gemm": _product_s,
    "attention": _attention_s,
    "experts": _experts_s,
}
