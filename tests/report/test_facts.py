"""Figures, their intervals, and verdicts that an interval leaves open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from windtunnel.metrics.summary import Metrics
from windtunnel.report.facts import facts
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import deployment
from windtunnel.specs.slo import parse_slo
from windtunnel.workload.table import request_table


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    load = request_table(np.arange(20.0), np.full(20, 100), np.full(20, 10))
    return serve(deployment("llama-3.1-8b", "h100-sxm"), load).metrics


def at(metrics: Metrics, tpot_s: float) -> Metrics:
    return replace(metrics, latency_s={**metrics.latency_s, "tpot": {**metrics.latency_s["tpot"], "p99": tpot_s}})


@pytest.mark.parametrize(
    ("value_s", "low_s", "high_s", "verdict"),
    [
        (0.010, 0.008, 0.015, "holds"),
        (0.010, 0.008, 0.025, "may miss"),
        (0.024, 0.018, 0.030, "may hold"),
        (0.024, 0.022, 0.030, "missed"),
    ],
)
def test_a_verdict_is_sure_where_the_whole_interval_agrees(
    metrics: Metrics, value_s: float, low_s: float, high_s: float, verdict: str
) -> None:
    ends = (at(metrics, low_s), at(metrics, high_s))
    row = next(
        fact for fact in facts(at(metrics, value_s), parse_slo("tpot_p99<20ms"), ends) if fact.name == "TPOT p99"
    )
    assert row.verdict == verdict
    assert row.target == "< 20 ms"


def test_without_an_interval_the_figure_decides(metrics: Metrics) -> None:
    row = next(fact for fact in facts(at(metrics, 0.010), parse_slo("tpot_p99<20ms")) if fact.name == "TPOT p99")
    assert (row.verdict, row.interval) == ("holds", "")
