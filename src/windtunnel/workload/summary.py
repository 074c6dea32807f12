"""A workload in figures: rate, lengths, burstiness, and what prefix caching could save."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from windtunnel.workload.table import Floats, Ints, RequestTable

QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
"""Levels at which lengths are summarised."""

WINDOWS_S = (1.0, 10.0, 60.0)
"""Windows over which arrivals are counted for the index of dispersion, seconds."""


@dataclass(frozen=True, slots=True)
class WorkloadSummary:
    """What a workload asks for.

    Attributes:
        requests: number of requests.
        duration_s: time from zero to the last arrival.
        rate_per_s: mean arrival rate, 0 when all arrive at once.
        prompt_tokens, output_tokens: totals.
        prompt_mean_tokens, output_mean_tokens: means per request.
        prompt_quantiles, output_quantiles: tokens at the levels of `QUANTILES`.
        correlation: rank correlation of prompt and output length, 0 when either is constant.
        gap_cv: coefficient of variation of the gaps between arrivals (1 for Poisson arrivals).
        dispersion: variance over mean of arrivals per 1, 10 and 60 s (1 for Poisson arrivals);
            nan where the workload is shorter than ten such windows.
        prefix_share: share of all prompt tokens that an unbounded prefix cache would have seen
            before, arrivals taken in order and each answered at once.
    """

    requests: int
    duration_s: float
    rate_per_s: float
    prompt_tokens: int
    output_tokens: int
    prompt_mean_tokens: float
    output_mean_tokens: float
    prompt_quantiles: tuple[float, ...]
    output_quantiles: tuple[float, ...]
    correlation: float
    gap_cv: float
    dispersion: tuple[float, ...]
    prefix_share: float

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; quantiles and windows become mappings, nan becomes None."""
        plain = asdict(self)
        for name in ("prompt_quantiles", "output_quantiles"):
            plain[name] = {
                f"p{100 * level:g}": value for level, value in zip(QUANTILES, getattr(self, name), strict=True)
            }
        plain["dispersion"] = {
            f"{window_s:g}s": None if np.isnan(value) else value
            for window_s, value in zip(WINDOWS_S, self.dispersion, strict=True)
        }
        return plain


def summarise(table: RequestTable) -> WorkloadSummary:
    """The figures of a workload with at least one request."""
    prompt, output = table.prompt_tokens, table.output_tokens
    return WorkloadSummary(
        requests=len(table),
        duration_s=table.duration_s,
        rate_per_s=table.rate_per_s,
        prompt_tokens=int(prompt.sum()),
        output_tokens=int(output.sum()),
        prompt_mean_tokens=float(prompt.mean()),
        output_mean_tokens=float(output.mean()),
        prompt_quantiles=tuple(np.quantile(prompt, QUANTILES).tolist()),
        output_quantiles=tuple(np.quantile(output, QUANTILES).tolist()),
        correlation=rank_correlation(prompt, output),
        gap_cv=gap_cv(table.arrival_s),
        dispersion=tuple(dispersion(table.arrival_s, window_s) for window_s in WINDOWS_S),
        prefix_share=prefix_share(table),
    )


def gap_cv(arrival_s: Floats) -> float:
    """Coefficient of variation of the gaps between arrivals; 0 for fewer than three or all at once."""
    gaps = np.diff(arrival_s)
    mean = float(gaps.mean()) if len(gaps) > 1 else 0.0
    return float(gaps.std()) / mean if mean > 0 else 0.0


def dispersion(arrival_s: Floats, window_s: float) -> float:
    """Variance over mean of the arrivals per window; nan with fewer than ten whole windows."""
    since_s = arrival_s - arrival_s[0]
    windows = int(since_s[-1] // window_s)
    if windows < 10:
        return float("nan")
    counts = np.bincount((since_s // window_s).astype(np.int64), minlength=windows)[:windows]
    return float(counts.var() / counts.mean())


def rank_correlation(a: Ints, b: Ints) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 when either does not vary."""
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return 0.0
    return float(np.corrcoef(_mean_rank(a), _mean_rank(b))[0, 1])


def _mean_rank(values: Ints) -> Floats:
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2.0)[which], dtype=np.float64)


def prefix_share(table: RequestTable) -> float:
    """Share of prompt tokens that an unbounded prefix cache would hold already (0 to 1).

    Walks a tree of segments; a request's output is held behind its prompt, where the next turn
    of a conversation finds it.
    """
    if not table.shares_prefixes:
        return 0.0
    child: dict[tuple[int, int], int] = {}
    held: list[int] = [0]  # tokens held of each node's segment
    offset, ids, tokens = table.segment_offset.tolist(), table.segment_id.tolist(), table.segment_tokens.tolist()
    outputs = zip(table.output_id.tolist(), table.output_tokens.tolist(), strict=True)
    hits = 0
    for row, (output_id, output_tokens) in enumerate(outputs):
        chain = [(ids[k], tokens[k]) for k in range(offset[row], offset[row + 1])]
        node, matching = 0, True
        for at, (content, length) in enumerate((*chain, (output_id, output_tokens))):
            key = (node, content)
            node = child.get(key, -1)
            if node < 0:
                node = child[key] = len(held)
                held.append(0)
            if matching and at < len(chain):
                hits += min(held[node], length)
                matching = held[node] >= length
            held[node] = max(held[node], length)
    return hits / int(table.prompt_tokens.sum())
