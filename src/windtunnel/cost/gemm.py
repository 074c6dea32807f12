"""Dense matrix multiplication: tiles over processors, waves, split-K, and the memory side.

A product (m, k) x (k, n) is cut into output tiles. Tiles are spread over the processors in waves; the
last wave is rarely full (wave quantisation), and a tile at the edge costs as much as a full one (tile
quantisation). A tile of shape (bm, bn) over a reduction of depth k takes

    2 * bm * bn * (k / s + fill_depth) / (efficiency(bm, bn) * peak / processors)

with s the split of the reduction (split-K), which fills idle processors for small outputs at the price
of a second pass over the partial sums. The library is taken to choose the best of a few tiles and splits.
The memory side reads weights and activations and writes the output once. The two overlap imperfectly:

    seconds = launch + latency_depth * k / 1000 + (compute^p + memory^p)^(1/p) + quantise

Kernels for narrow formats are less free: they fix the tile by the rows alone (`ROW_TILES`), two processors share
tiles of many rows, and on Hopper they do not split the reduction. A processor runs faster while others idle, by
`idle_gain` of the idle share. Turning 16-bit activations into the format is a pass over memory of its own,
`quantise` = passes * m * k * (2 + stored bytes) / bandwidth.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from windtunnel.cost.constants import GemmConstants
from windtunnel.cost.device import Device, stored_bytes
from windtunnel.cost.elementwise import loaded_seconds, streaming_seconds

Floats = npt.NDArray[np.float64]

# Tile shapes and the share of a processor's rate that each reaches: small tiles reload operands more often.
TILES: tuple[tuple[int, int, float], ...] = (
    (256, 128, 1.0),
    (128, 256, 1.0),
    (128, 128, 0.95),
    (64, 256, 0.9),
    (64, 128, 0.8),
    (64, 64, 0.62),
    (32, 64, 0.5),
    (16, 64, 0.35),
)
ROW_TILES: tuple[tuple[float, int, int, int], ...] = (
    (64, 64, 64, 1),
    (128, 64, 128, 2),
    (float("inf"), 128, 128, 2),
)
"""Rows up to which, tile, and processors that share one: the shapes of vLLM's and SGLang's CUTLASS kernels for fp8.
A cluster of two processors takes two tiles of one column, so rows are padded to the cluster's."""
SPLITS = (1, 2, 4, 8)
WEIGHT_ONLY_RATE = 0.75
"""Share of the matrix rate left when weights are expanded on the way in (published W4A16 kernels at large batch)."""
ACTIVATION_BYTES = 2.0
VECTOR_ROWS = 8
"""Rows up to which libraries have kernels on the vector units, which waste nothing on a matrix instruction's rows."""
VECTOR_SHARE = 0.5
"""Share of the vector rate that those reach: they also unpack, scale and reduce."""
EXPAND_ROWS = 32
"""Rows above which an engine that expands stored weights does so before the product, once, in memory."""


def gemm_seconds(
    m: npt.ArrayLike,
    n: int | Floats,
    k: int | Floats,
    device: Device,
    weight_dtype: str = "bf16",
    compute_dtype: str = "bf16",
) -> Floats:
    """Seconds of a product (m, k) x (k, n) inside a captured graph.

    Args:
        m: rows (tokens), scalar or array; 0 rows take no time.
        n: output width of this rank.
        k: reduction depth of this rank.
        device: where it runs.
        weight_dtype: stored format of the weights.
        compute_dtype: format of the arithmetic.
    """
    rows = np.asarray(m, dtype=np.float64)
    constants = device.constants.gemm_of(compute_dtype)
    body = _blend(
        compute_seconds(rows, n, k, device, weight_dtype, compute_dtype),
        memory_seconds(rows, n, k, device, weight_dtype, compute_dtype),
        constants.blend,
    )
    seconds = body + constants.launch_s + constants.latency_depth_s * k / 1000.0
    seconds = seconds + quantise_seconds(rows, k, device, compute_dtype)
    seconds = seconds + _preparation_seconds(rows, n, k, device, weight_dtype, compute_dtype)
    return np.where(rows > 0, seconds, 0.0)


def _preparation_seconds(
    rows: Floats, n: int | Floats, k: int | Floats, device: Device, weight_dtype: str, compute_dtype: str
) -> Floats | float:
    """Kernels of their own before and after a product, in engines that do not fuse them."""
    habits, launch_s = device.constants.habits, device.constants.gemm_of(compute_dtype).launch_s
    seconds: Floats | float = 0.0
    if habits.expands_weights and stored_bytes(weight_dtype) < stored_bytes(compute_dtype):
        # One reads the narrow weights and writes wide ones, which the product reads.
        moved = n * k * 2.0 * stored_bytes(compute_dtype)
        seconds = seconds + np.where(rows > EXPAND_ROWS, streaming_seconds(moved, device), 0.0)
    if habits.converts:
        # They read 32-bit inputs and write 16-bit ones, and the other way round for the results.
        conversion = 2.0 * launch_s + streaming_seconds(rows * (k + n) * (4.0 + ACTIVATION_BYTES), device)
        # On vector units one kernel prepares the input and the product writes 32 bits itself.
        seconds = seconds + np.where(rows > VECTOR_ROWS, conversion, launch_s)
    return seconds


def compute_seconds(
    rows: Floats, n: int | Floats, k: int | Floats, device: Device, weight_dtype: str, compute_dtype: str
) -> Floats:
    """The compute side: the best tile and split, with wave quantisation."""
    constants = device.constants.gemm_of(compute_dtype)
    rate = constants.compute_efficiency * device.peak_flops_per_s(compute_dtype) / device.processors
    if stored_bytes(weight_dtype) < stored_bytes(compute_dtype) and not device.constants.habits.expands_weights:
        rate *= WEIGHT_ONLY_RATE
    best = np.full(np.broadcast_shapes(rows.shape, np.shape(n), np.shape(k)), np.inf)
    if constants.tiles_by_rows:
        above = 0.0
        for upto, bm, bn, shared in ROW_TILES:
            of_range = (rows > above) & (rows <= upto)
            tiles = np.ceil(rows / (bm * shared)) * shared * np.ceil(n / bn)
            best = np.where(of_range, _tiled_seconds(tiles, 2.0 * bm * bn / rate, k, device, constants), best)
            above = upto
    else:
        for bm, bn, share in TILES:
            tiles = np.ceil(rows / bm) * np.ceil(n / bn)
            best = np.minimum(best, _tiled_seconds(tiles, 2.0 * bm * bn / (rate * share), k, device, constants))
    vector = 2.0 * rows * n * k / (VECTOR_SHARE * device.accelerator.vector_flops_per_s)
    return np.where(rows <= VECTOR_ROWS, np.minimum(best, vector), best)


def _tiled_seconds(tiles: Floats, depth_s: float, k: int | Floats, device: Device, constants: GemmConstants) -> Floats:
    """Seconds of so many tiles under the best split, each taking `depth_s` per unit of reduction depth."""
    best = np.full(np.broadcast_shapes(tiles.shape, np.shape(k)), np.inf)
    for split in SPLITS if constants.splits_depth else SPLITS[:1]:
        even = tiles * split / device.processors
        full = np.ceil(even)
        # Kernels that hand out work below a whole tile (stream-K, persistent grids) soften the last wave.
        waves = np.maximum(full * (1.0 - constants.wave_sharing) + even * constants.wave_sharing, 1.0)
        depth = k / split + constants.fill_depth * (1.0 if split == 1 else 1.5)
        busy = even / np.maximum(full, 1.0)
        best = np.minimum(best, waves * (depth_s * depth) / (1.0 + constants.idle_gain * (1.0 - busy)))
    return best


def quantise_seconds(rows: Floats, k: int | Floats, device: Device, compute_dtype: str) -> Floats:
    """Reading activations in 16 bits and writing them in the format of the arithmetic, before the product."""
    passes = device.constants.gemm_of(compute_dtype).quantise_passes
    moved = rows * k * (ACTIVATION_BYTES + stored_bytes(compute_dtype))
    return np.asarray(passes * moved / device.bandwidth_bytes_per_s)


def memory_seconds(
    rows: Floats, n: int | Floats, k: int | Floats, device: Device, weight_dtype: str, compute_dtype: str
) -> Floats:
    """The memory side: weights once, activations in and out."""
    constants = device.constants.gemm_of(compute_dtype)
    operand = min(ACTIVATION_BYTES, stored_bytes(compute_dtype))
    moved = n * k * stored_bytes(weight_dtype) + rows * (k * operand + n * ACTIVATION_BYTES)
    seconds = moved / (constants.memory_efficiency * device.bandwidth_bytes_per_s)
    return np.where(rows <= VECTOR_ROWS, loaded_seconds(seconds, moved, device), seconds)


def gemm_limit_seconds(
    m: npt.ArrayLike, n: int, k: int, device: Device, weight_dtype: str, compute_dtype: str
) -> Floats:
    """Speed of light: peak rate, full bandwidth, nothing else."""
    rows = np.asarray(m, dtype=np.float64)
    operand = min(ACTIVATION_BYTES, stored_bytes(compute_dtype))
    moved = n * k * stored_bytes(weight_dtype) + rows * (k * operand + n * ACTIVATION_BYTES)
    flops = 2.0 * rows * n * k
    limit = np.maximum(flops / device.peak_flops_per_s(compute_dtype), moved / device.bandwidth_bytes_per_s)
    return np.where(rows > 0, limit, 0.0)


def _blend(a: Floats, b: Floats, exponent: float) -> Floats:
    large, small = np.maximum(a, b), np.minimum(a, b)
    ratio = np.divide(small, large, out=np.zeros_like(large), where=large > 0)
    blended: Floats = large * (1.0 + ratio**exponent) ** (1.0 / exponent)
    return blended


@lru_cache(maxsize=4096)
def gemm_table(max_rows: int, n: int, k: int, device: Device, weight_dtype: str, compute_dtype: str) -> Floats:
    """`gemm_seconds` for every row count from 0 to max_rows, shape (max_rows + 1,); kept between calls."""
    table = gemm_seconds(np.arange(max_rows + 1), n, k, device, weight_dtype, compute_dtype)
    table.flags.writeable = False
    return table
