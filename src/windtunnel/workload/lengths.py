"""Prompt and output lengths of synthetic traffic: quantile functions, joined by a Gaussian copula."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from windtunnel.specs.workload import FixedLength, Length, LognormalLength
from windtunnel.workload.table import Floats, Ints


def draw_lengths(
    prompt: Length, output: Length, correlation: float, n: int, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Prompt and output lengths of `n` requests, in tokens, each at least 1.

    The lengths keep their own distributions; a pair of correlated normals picks the quantiles.
    For a rank (Spearman) correlation r the normals need 2 sin(pi r / 6) (Pearson 1907).

    Args:
        prompt: distribution of prompt lengths.
        output: distribution of output lengths.
        correlation: rank correlation of the two, from -1 to 1.
        n: how many requests.
        rng: source of randomness.
    """
    if correlation == 0.0:
        return at_quantile(prompt, rng.random(n)), at_quantile(output, rng.random(n))
    from scipy.special import ndtr

    rho = 2.0 * math.sin(math.pi * correlation / 6.0)
    z = rng.standard_normal((2, n))
    other = rho * z[0] + math.sqrt(max(1.0 - rho * rho, 0.0)) * z[1]
    return at_quantile(prompt, ndtr(z[0])), at_quantile(output, ndtr(other))


def draw_length(length: Length, n: int, rng: np.random.Generator) -> Ints:
    """`n` lengths of one distribution, each at least 1."""
    return at_quantile(length, rng.random(n))


def at_quantile(length: Length, level: Floats) -> Ints:
    """The length at each quantile level (0 to 1), rounded to whole tokens, at least 1."""
    if isinstance(length, FixedLength):
        return np.full(len(level), length.tokens, dtype=np.int64)
    tokens: Floats
    if isinstance(length, LognormalLength):
        from scipy.special import ndtri

        sigma = math.log(length.p90_tokens / length.median_tokens) / NormalDist().inv_cdf(0.9)
        with np.errstate(over="ignore"):
            tokens = length.median_tokens * np.exp(sigma * ndtri(level)) if sigma else level * 0 + length.median_tokens
        tokens = np.minimum(tokens, length.max_tokens)
    else:
        tokens = np.interp(level, length.levels, length.tokens)
    return np.maximum(np.rint(tokens), 1).astype(np.int64)


def mean_tokens(length: Length) -> float:
    """Mean of a length distribution, in tokens (that of a lognormal without its cap)."""
    if isinstance(length, FixedLength):
        return float(length.tokens)
    if isinstance(length, LognormalLength):
        sigma = math.log(length.p90_tokens / length.median_tokens) / NormalDist().inv_cdf(0.9)
        return length.median_tokens * math.exp(sigma * sigma / 2)
    levels, tokens = np.asarray(length.levels), np.asarray(length.tokens)
    return float(np.sum(np.diff(levels) * (tokens[1:] + tokens[:-1]) / 2))
