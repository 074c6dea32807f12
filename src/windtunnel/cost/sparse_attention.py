"""Sparse attention's kernels: scores of the index, the choice among them, and attention of prompts to chosen latents.

The constants are read off the tables of aiconfigurator-core 0.12 (Apache-2.0), SGLang 0.5.14's attention of
DeepSeek-V3.2 and GLM-5 on H100, H200, B200, B300 and GB200, from slopes in which all else cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.cost.attention import QUERY_TILE
from windtunnel.cost.device import Device

Floats = npt.NDArray[np.float64]

SCORE_EFFICIENCY = 0.7
"""Share of the 8-bit peak at which scores are computed: prompts of 64 heads against 32 take 2.6 ps a pair more on B200
and B300 (0.69), 5.3 ps on H200 and H100 (0.78)."""
CHOICE_CLOCKS = 0.9
"""Clocks per score in which one processor picks the best of a query: one request's decode takes 0.44 to 0.48 ns per
token of context beyond 32,768 on Blackwell (0.87 to 0.94 clocks), 0.46 to 0.56 ns on Hopper (0.84 to 1.02)."""
CHOICE_ROW_CLOCKS = 5000.0
"""Clocks in which a processor begins and ends a query of many: prompts of 4,096 tokens after 2,048 cached ones, where
the other half of the queries has to choose too, take 15 ns a query more than their pairs on H200, 18 on B200 and 23 on
B300 (3,700 to 6,700 clocks of a processor). Alone it is part of the kernel's fixed time."""
GATHER_EFFICIENCY = 1.0
"""Rate of reading chosen latents in proportion to memory's, which caches help and scattered reads do not: 74 to 80 ps
a pair of 576 bytes with 8 to 32 heads on B200 and B300 (7.2 to 7.8 TB/s)."""


@dataclass(frozen=True, slots=True)
class SparseKernel:
    """A kernel that attends to chosen latents.

    Attributes:
        efficiency: share of the 16-bit peak that its matrix products reach.
        heads: heads that it computes at least.
        whole: whether it works through topk places for every token, also where fewer are taken.
    """

    efficiency: float
    heads: float = QUERY_TILE
    whole: bool = False


KERNELS = {
    ("hopper", False): SparseKernel(0.59, 64.0, True),
    ("hopper", True): SparseKernel(0.42, 64.0, True),
    ("blackwell", False): SparseKernel(0.53, 128.0, True),
    ("blackwell", True): SparseKernel(0.50),
}
"""By architecture, and whether latents are kept in 8 bits: what SGLang from 0.5.9 on runs by default or as its
cookbook sets them. FlashMLA's kernel pads heads to 64 on Hopper and 128 on Blackwell (`_forward_flashmla_sparse`) and
takes 0.48 us a token on B300, 0.49 on B200 and H200 whatever the context; with 8-bit latents on Hopper 0.69 us, 413
TFLOP/s, as its authors say (410). TensorRT-LLM's kernel, with 8 bits on Blackwell, takes 125 ps a pair of 64 heads."""


def index_scores_seconds(flops: npt.ArrayLike, moved_bytes: npt.ArrayLike, device: Device) -> Floats:
    """Seconds of the scores: a launch, the products, and what is read and written beside them."""
    compute = np.asarray(flops, dtype=np.float64) / (SCORE_EFFICIENCY * device.peak_flops_per_s("fp8"))
    memory = np.asarray(moved_bytes, dtype=np.float64) / device.bandwidth_bytes_per_s
    return device.constants.elementwise_launch_s + compute + memory


def index_choice_seconds(rows: npt.ArrayLike, pairs: npt.ArrayLike, even: bool, device: Device) -> Floats:
    """Seconds of the choice: a processor per query, in turns when there are more of them.

    Args:
        rows: queries.
        pairs: scores, all queries together.
        even: whether queries keep all processors busy.
        device: where it runs.
    """
    scores, queries = np.asarray(pairs, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    clocks = CHOICE_CLOCKS * scores / device.processors
    if even:
        clocks = clocks + CHOICE_ROW_CLOCKS * queries / device.processors
    else:  # scores of no query are spread evenly, so that lines through nothing have their slope at many
        alone = np.divide(scores, queries, out=np.zeros(np.broadcast(scores, queries).shape), where=queries > 0)
        clocks = np.maximum(clocks, CHOICE_CLOCKS * alone)
    return device.constants.elementwise_launch_s + clocks / device.accelerator.clock_hz


def sparse_prefill_seconds(
    tokens: npt.ArrayLike,
    pairs: npt.ArrayLike,
    *,
    topk: int,
    heads: int,
    latent_dim: int,
    rope_dim: int,
    kv_bytes: float,
    device: Device,
) -> Floats:
    """Seconds of one layer's attention of prompts to chosen latents, a line in tokens and pairs.

    Every token is a query of all heads with latents of its own: the longer of reading and of computing them.

    Args:
        tokens: queries.
        pairs: latents that they attend to, together.
        topk: most of them for a query.
        heads: of this rank.
        latent_dim, rope_dim: widths of what is cached of a token.
        kv_bytes: bytes of one cached value.
        device: where it runs.
    """
    constants = device.constants.latent or device.constants.decode
    kernel = KERNELS.get((device.accelerator.architecture, kv_bytes <= 1.0), SparseKernel(constants.compute_efficiency))
    flops = 2.0 * max(heads, kernel.heads) * (2.0 * latent_dim + rope_dim)
    compute_s = flops / (kernel.efficiency * device.peak_flops_per_s("bf16"))
    read_s = (latent_dim + rope_dim) * kv_bytes / (GATHER_EFFICIENCY * device.bandwidth_bytes_per_s)
    worked = np.asarray(tokens, dtype=np.float64) * topk if kernel.whole else np.asarray(pairs, dtype=np.float64)
    return np.asarray(constants.launch_s + max(compute_s, read_s) * worked)
