"""Speed of light at the points of a table, to tell a wrong unit."""

from __future__ import annotations

from windtunnel.cost.measured.table import Table
from windtunnel.operators.attention import DecodeAttention
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.moe import Experts
from windtunnel.operators.operator import ACTIVATION_BYTES, Operator
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.hardware import AcceleratorSpec


def table_limits_s(operator: Operator, found: Table, device: AcceleratorSpec) -> dict[tuple[float, ...], float]:
    """Seconds that the hardware needs at least, by point; empty where only activations move."""
    if isinstance(operator, Matmul):
        return {sizes: _product_s(operator, sizes[0], device) for sizes in found.points}
    if isinstance(operator, DecodeAttention):
        return {sizes: _attention_s(operator, sizes, device) for sizes in found.points}
    if isinstance(operator, Experts):
        return {sizes: _experts_s(operator, sizes, device) for sizes in found.points}
    return {}


def _peak(device: AcceleratorSpec, dtype: str) -> float:
    peaks = {str(name): float(rate) for name, rate in device.peak_flops_per_s.items()}
    return peaks.get(dtype, max(peaks.values()))


def _product_s(operator: Matmul, rows: float, device: AcceleratorSpec) -> float:
    values = operator.n * operator.k * operator.batch
    weights = values * DTYPE_BYTES[operator.weight_dtype] / device.memory_bandwidth_bytes_per_s
    return max(weights, 2.0 * rows * values / _peak(device, operator.compute_dtype))


def _attention_s(operator: DecodeAttention, sizes: tuple[float, ...], device: AcceleratorSpec) -> float:
    chunk, start, requests, context = sizes
    width = operator.q_heads * operator.head_dim
    flops = 4.0 * width * (chunk * start + chunk * (chunk + 1) / 2 + requests * context)
    cached = 2.0 * operator.kv_heads * operator.head_dim * operator.kv_bytes * requests * context
    return max(cached / device.memory_bandwidth_bytes_per_s, flops / _peak(device, "bf16"))


def _experts_s(operator: Experts, sizes: tuple[float, ...], device: AcceleratorSpec) -> float:
    tokens, visited = sizes
    each = operator.matrices * operator.hidden * operator.ffn
    read = visited * each * DTYPE_BYTES[operator.weight_dtype] + tokens * operator.hidden * ACTIVATION_BYTES
    flops = 2.0 * tokens * operator.experts_per_token * each
    return max(read / device.memory_bandwidth_bytes_per_s, flops / _peak(device, operator.compute_dtype))
