"""The simulator against queueing theory, within confidence intervals from batch means."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from windtunnel.cost.surface import linear_surface
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.serving.settings import SchedulerSettings
from windtunnel.workload.table import RequestTable, request_table

BATCHES = 40
CONFIDENCE = 4.0
"""Half-widths of the interval in standard errors: a true theory fails once in 16,000 checks."""


def poisson(rate_per_s: float, n: int, seed: int, output: npt.NDArray[np.int64] | None = None) -> RequestTable:
    draw = np.random.default_rng(seed)
    arrival_s = np.cumsum(draw.exponential(1 / rate_per_s, n))
    return request_table(arrival_s, np.ones(n), np.ones(n) if output is None else output)


def mean_and_half_width(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean after the warm-up tenth, and the half-width of its confidence interval."""
    kept = values[len(values) // 10 :]
    means = kept[: len(kept) // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
    return float(means.mean()), CONFIDENCE * float(means.std(ddof=1)) / math.sqrt(BATCHES)


def waits_s(result: Simulation) -> npt.NDArray[np.float64]:
    return result.scheduled_s - result.arrival_s


def md1_wait_s(rate_per_s: float, service_s: float) -> float:
    """Mean wait with Poisson arrivals, constant service and one server (Pollaczek-Khinchine)."""
    load = rate_per_s * service_s
    return load * service_s / (2 * (1 - load))


def mmc_wait_s(rate_per_s: float, service_s: float, servers: int) -> float:
    """Mean wait with Poisson arrivals, exponential service and c servers (Erlang C)."""
    offered = rate_per_s * service_s
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - offered / servers)
    return last / (sum(terms) + last) * service_s / (servers - offered)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
def test_one_at_a_time_with_constant_service_is_m_d_1(load: float) -> None:
    service_s = 0.1
    workload = poisson(load / service_s, 200_000, seed=11)
    result = run(workload, linear_surface(service_s), SchedulerSettings(1, 16, 16, 4))
    mean, half = mean_and_half_width(waits_s(result))
    assert abs(mean - md1_wait_s(load / service_s, service_s)) < half
    assert half < 0.2 * mean


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 0.8), (16, 0.9)])
def test_c_at_a_time_with_geometric_outputs_is_m_m_c(servers: int, load: float) -> None:
    service_s, steps = 1.0, 100
    draw = np.random.default_rng(5)
    output = draw.geometric(1 / steps, 100_000)
    workload = poisson(load * servers / service_s, 100_000, seed=6, output=output)
    settings = SchedulerSettings(servers, 64, 10_000, 10_000, block_size=16)
    result = run(workload, linear_surface(service_s / steps), settings)
    mean, half = mean_and_half_width(waits_s(result))
    # Places are given out at the ends of steps only, which delays an arrival by up to one step.
    expected = mmc_wait_s(load * servers / service_s, service_s, servers)
    assert expected - half < mean < expected + half + service_s / steps


def test_random_routing_splits_into_independent_queues() -> None:
    service_s, load, replicas = 0.1, 0.7, 5
    workload = poisson(replicas * load / service_s, 300_000, seed=13)
    settings = SchedulerSettings(1, 16, 16, 4)
    result = run(workload, linear_surface(service_s), settings, replicas=replicas, router="random", seed=3)
    mean, half = mean_and_half_width(waits_s(result))
    assert abs(mean - md1_wait_s(load / service_s, service_s)) < half
    # Two choices beat one, and looking at all replicas beats two.
    two, least = (
        waits_s(run(workload, linear_surface(service_s), settings, replicas=replicas, router=router, seed=3)).mean()
        for router in ("power_of_two", "least_outstanding")
    )
    assert least < two < 0.5 * mean


def test_little_s_law_holds_between_samples_and_requests() -> None:
    workload = poisson(20.0, 50_000, seed=21, output=np.random.default_rng(2).integers(1, 30, 50_000))
    settings = SchedulerSettings(8, 64, 64, 200)
    result = run(workload, linear_surface(0.01, 1e-4), settings, sample_interval_s=0.37)
    assert result.series is not None
    present, half = mean_and_half_width((result.series.running + result.series.waiting).astype(np.float64))
    assert abs(present - workload.rate_per_s * result.e2e_s.mean()) < half
