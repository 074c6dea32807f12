"""Early exit in the step's cost: which share of the layers a decoding batch runs.

    together   every batch runs the mean share
    deepest    a batch of n runs until its deepest token leaves: sum over layers of 1 - (1 - S(l))^n, over the layers
    each       layer l runs for n S(l) tokens: the cost is the mean over layers of a batch of that size

where S(l) is the share of tokens that run layer l. Skipped layers read neither weights nor cache. Embedding,
head and host are not skipped. In a step that holds prompts every layer runs for those, so that decoding
tokens save the arithmetic of their rows and their attention alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.operators.batch import Batch
from windtunnel.operators.operator import Operator
from windtunnel.specs.depth import DepthSpec

Floats = npt.NDArray[np.float64]


def survival(spec: DepthSpec, layers: int) -> Floats:
    """Share of generated tokens that run each layer, shape (layers,), not increasing.

    >>> survival(DepthSpec(mean_share=0.5, least_share=0.5), 4).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    if spec.survival:
        return np.asarray(spec.survival, dtype=np.float64)
    least = spec.least_share * layers
    beyond = np.clip(np.arange(1, layers + 1) - least, 0.0, None)

    def stays(chance: float) -> Floats:
        """S(l) when a token goes on past each layer beyond the least with this chance."""
        partial = np.clip(1.0 - beyond, 0.0, 1.0)  # the layer in which the least share ends
        return np.asarray(np.where(beyond > 0, partial + (1.0 - partial) * chance**beyond, 1.0))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if stays(middle).mean() < spec.mean_share else (low, middle)
    found: Floats = stays((low + high) / 2.0)
    return found


def batch_share(spec: DepthSpec, layers: int, requests: npt.ArrayLike) -> Floats:
    """Mean share of the layers that decoding batches of these sizes run; of `each`, that a token runs."""
    stays = survival(spec, layers)
    count = np.asarray(requests, dtype=np.float64)
    if spec.rule != "deepest":
        return np.full(count.shape, float(stays.mean()))
    deepest: Floats = 1.0 - (1.0 - stays) ** np.maximum(count, 1.0)[..., None]
    return np.asarray(deepest.mean(axis=-1))


def with_depth(surface: StepSurface, spec: DepthSpec | None, layers: int) -> StepSurface:
    """The surface of a model that leaves early when it decodes.

    The decode tables are over (requests, context), and a step without prompts holds as many tokens as requests, so what
    its layers save goes there. Energy is saved at token counts that decoding alone reaches.
    """
    if spec is None:
        return surface
    requests = np.arange(surface.max_requests + 1)
    tokens_s, tokens_j = surface.token_s[requests], surface.token_j[requests]
    if spec.rule == "each":
        sizes = requests[:, None] * survival(spec, layers)[None, :]
        run_s = np.interp(sizes, requests, tokens_s).mean(axis=1)
        run_j = np.interp(sizes, requests, tokens_j).mean(axis=1)
        attention_s = _mean_of_rows(surface.decode_s, sizes)
    else:
        share = batch_share(spec, layers, requests)
        run_s, run_j, attention_s = share * tokens_s, share * tokens_j, share[:, None] * surface.decode_s
    share = batch_share(spec, layers, requests)
    mixed = surface.decode_mixed_s if surface.decode_mixed_s.size else surface.decode_s
    rows_s = (1.0 - share) * requests * _per_row_s(surface)
    token_j = surface.token_j.copy()
    token_j[requests] = run_j
    return replace(
        surface,
        decode_s=attention_s - (tokens_s - run_s)[:, None],
        decode_mixed_s=share[:, None] * mixed - rows_s[:, None],
        decode_mixed_token_s=np.zeros(mixed.shape)
        if not surface.decode_mixed_token_s.size
        else share[:, None] * surface.decode_mixed_token_s,
        token_j=token_j,
        decode_j=surface.decode_j * float(share[-1]),
        least_depth=float(survival(spec, layers).mean()),
    )


def _mean_of_rows(table: Floats, sizes: Floats) -> Floats:
    """For each row of sizes, the mean of the table's rows at those sizes, linear in between."""
    below = np.floor(sizes).astype(np.int64)
    part = sizes - below
    above = np.minimum(below + 1, len(table) - 1)
    weight = np.zeros((len(sizes), len(table)))
    rows = np.broadcast_to(np.arange(len(sizes))[:, None], sizes.shape)
    np.add.at(weight, (rows, below), (1.0 - part) / sizes.shape[1])
    np.add.at(weight, (rows, above), part / sizes.shape[1])
    return np.asarray(weight @ table)


def _per_row_s(surface: StepSurface) -> float:
    """Seconds that one more token adds to a large step: arithmetic, as the weights are read anyway."""
    most = surface.max_tokens
    half = most // 2
    return float((surface.token_s[most] - surface.token_s[half]) / max(most - half, 1))


def at_depth(operators: list[Operator], batch: Batch, spec: DepthSpec | None, layers: int) -> list[Operator]:
    """A step's operators with the executions that early exit leaves, for `explain`.

    The share of `each` is that of a token, which its rows follow; its weights are read by the layers that run at all.
    """
    if spec is None or not batch.decode_requests:
        return operators
    share = float(batch_share(spec, layers, batch.decode_requests))
    rows = (batch.prefill_tokens + share * batch.decode_requests) / batch.tokens
    by_part = {"tokens": rows, "decode": share}
    return [
        replace(one, count=one.count * by_part[one.part]) if one.part in by_part and one.count > 1 else one
        for one in operators
    ]
