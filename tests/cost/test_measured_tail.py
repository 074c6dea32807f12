"""The tail of decode attention over contexts of unequal length, and the rate of a lane alone."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.measured.kernels import ATTENTION_AXES
from windtunnel.cost.measured.table import Table, table
from windtunnel.cost.measured.tail import has_tail, lane_bytes_per_token, lane_rate, tail_per_token_s
from windtunnel.operators.attention import DecodeAttention
from windtunnel.operators.expand import decode_operators
from windtunnel.specs.assemble import deployment

PROCESSORS, BANDWIDTH, RATE = 188, 1.6e12, 20e9


def attention() -> DecodeAttention:
    case = deployment("meta-llama/Llama-3.1-8B", "rtx-pro-6000")
    (operator,) = decode_operators(case.model, case.plan, 1.0, 1.0)
    assert isinstance(operator, DecodeAttention)
    return operator


def equal_contexts() -> Table:
    """Attention at full bandwidth."""
    one = attention()
    each = one.kv_heads * lane_bytes_per_token(one) / BANDWIDTH
    points = {(0.0, 0.0, n, kv): n * kv * each for n in (1.0, 64.0, 128.0) for kv in (16.0, 16384.0)}
    return table(ATTENTION_AXES, points, "made up")


def test_equal_contexts_have_no_tail() -> None:
    counts = np.arange(129.0)
    assert not tail_per_token_s(counts, (1.0,), attention(), RATE, PROCESSORS, BANDWIDTH).any()


def test_the_tail_is_there_only_while_all_lanes_run_unsplit() -> None:
    counts = np.arange(129.0)
    tails = tail_per_token_s(counts, (0.5, 0.5, 0.5, 2.5), attention(), RATE, PROCESSORS, BANDWIDTH)
    inside = np.array([has_tail(count, attention(), PROCESSORS) for count in counts])
    assert tails[inside][0] > 0
    assert not tails[~inside].any()
    assert counts[inside].min() == 38
    assert counts[inside].max() == 70


def test_the_rate_of_a_lane_is_found_again() -> None:
    one = attention()
    skewed = []
    for requests, long in ((64.0, 1.0), (64.0, 4.0), (48.0, 2.0)):
        read = 3072 * lane_bytes_per_token(one)
        tail = read / RATE - read * long * one.kv_heads / BANDWIDTH
        mean = (long * 4096 + (requests - long) * 1024) / requests
        skewed.append(
            (requests, long, 1024.0, 4096.0, 1.0 + tail / float(equal_contexts().at(0.0, 0.0, requests, mean)))
        )
    assert lane_rate(skewed, equal_contexts(), one, PROCESSORS, BANDWIDTH) == pytest.approx(RATE)
    assert lane_rate(skewed[:0], equal_contexts(), one, PROCESSORS, BANDWIDTH) == 0.0
