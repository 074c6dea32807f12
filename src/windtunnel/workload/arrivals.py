"""Arrival times of synthetic traffic.

All but the closed loop are point processes with a mean rate; `onoff`, `diurnal` and `profile`
have a rate that varies, drawn by warping the time of a unit-rate process (inverse of the
cumulative rate; Lewis and Shedler 1979).
"""

from __future__ import annotations

import math

import numpy as np

from windtunnel.specs.workload import Arrivals
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, Floats, Ints


def draw_arrivals(arrivals: Arrivals, n: int, rng: np.random.Generator) -> tuple[Floats, Ints, Floats]:
    """Arrival times of `n` requests (or sessions), with what each waits for.

    Args:
        arrivals: the process.
        n: how many.
        rng: source of randomness.

    Returns:
        arrival_s (not decreasing), after (`AT_ARRIVAL` or `AFTER_ANY`) and delay_s, as in
        `RequestTable`.
    """
    after = np.full(n, AT_ARRIVAL, dtype=np.int64)
    delay_s = np.zeros(n)
    if arrivals.kind == "closed":
        after[arrivals.concurrency :] = AFTER_ANY
        delay_s[arrivals.concurrency :] = arrivals.think_s
        return np.zeros(n), after, delay_s
    return _times(arrivals, n, rng), after, delay_s


def _times(arrivals: Arrivals, n: int, rng: np.random.Generator) -> Floats:
    rate = arrivals.rate_per_s
    match arrivals.kind:
        case "uniform":
            return np.arange(n) / rate
        case "gamma":
            shape = 1.0 / arrivals.cv**2
            return np.cumsum(rng.gamma(shape, 1.0 / (shape * rate), n))
        case "weibull":
            shape = weibull_shape(arrivals.cv)
            return np.cumsum(rng.weibull(shape, n) / (rate * math.gamma(1.0 + 1.0 / shape)))
        case "onoff":
            return _on_off(np.cumsum(rng.exponential(1.0, n)), arrivals)
        case "diurnal":
            return _diurnal(np.cumsum(rng.exponential(1.0, n)), arrivals)
        case "profile":
            shape = 1.0 / arrivals.cv**2
            return from_profile_time(np.cumsum(rng.gamma(shape, 1.0 / shape, n)) / rate, arrivals)
        case "at_once":
            return np.zeros(n)
        case _:
            return np.cumsum(rng.exponential(1.0 / rate, n))


def weibull_shape(cv: float) -> float:
    """Shape k of the Weibull distribution whose coefficient of variation is `cv`.

    cv^2 = Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1, which falls with k; solved by bisection.

    >>> round(weibull_shape(1.0), 6)
    1.0
    """
    low, high = math.log(0.05), math.log(200.0)
    for _ in range(80):
        middle = (low + high) / 2
        k = math.exp(middle)
        log_ratio = math.lgamma(1 + 2 / k) - 2 * math.lgamma(1 + 1 / k)
        if math.expm1(min(log_ratio, 700.0)) > cv**2:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _on_off(unit: Floats, arrivals: Arrivals) -> Floats:
    """Unit-rate times spread over the bursts only; a burst comes first."""
    period_s = arrivals.on_s + arrivals.off_s
    on_time_s = unit * arrivals.on_s / (period_s * arrivals.rate_per_s)
    bursts = np.floor(on_time_s / arrivals.on_s)
    return np.asarray(on_time_s + bursts * arrivals.off_s, dtype=np.float64)


def _diurnal(unit: Floats, arrivals: Arrivals) -> Floats:
    """Rate `rate (1 + swing sin(2 pi t / period))`; its integral is inverted by bisection."""
    rate, swing = arrivals.rate_per_s, arrivals.swing
    angular_per_s = 2 * math.pi / arrivals.period_s
    lead_s = 2 * swing / angular_per_s  # the integral never runs further ahead of rate * t
    high = unit / rate
    low = np.maximum(high - lead_s, 0.0)
    for _ in range(60):
        middle = (low + high) / 2
        cumulative = rate * (middle + swing / angular_per_s * (1 - np.cos(angular_per_s * middle)))
        early = cumulative < unit
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return np.maximum.accumulate((low + high) / 2)


def from_profile_time(even_s: Floats, arrivals: Arrivals) -> Floats:
    """Times at an even rate moved to where the profile's rate puts them, seconds."""
    profile, cumulative = _cumulative(arrivals)
    round_s = len(profile) * arrivals.interval_s
    rounds = np.floor(even_s / round_s)
    rest = (even_s - rounds * round_s) / arrivals.interval_s
    at = np.minimum(np.searchsorted(cumulative, rest, side="right") - 1, len(profile) - 1)
    inside = np.divide(rest - cumulative[at], profile[at], out=np.ones(len(at)), where=profile[at] > 0)
    return np.maximum.accumulate(rounds * round_s + (at + np.minimum(inside, 1.0)) * arrivals.interval_s)


def to_profile_time(time_s: Floats, arrivals: Arrivals) -> Floats:
    """The inverse of `from_profile_time`: times under the profile's rate moved to an even rate."""
    profile, cumulative = _cumulative(arrivals)
    round_s = len(profile) * arrivals.interval_s
    rounds = np.floor(time_s / round_s)
    edges = np.arange(len(profile) + 1) * arrivals.interval_s
    return rounds * round_s + np.interp(time_s - rounds * round_s, edges, cumulative * arrivals.interval_s)


def _cumulative(arrivals: Arrivals) -> tuple[Floats, Floats]:
    """The profile scaled to a mean of 1, and its running sum from 0."""
    profile = np.asarray(arrivals.profile, dtype=np.float64)
    profile = profile / profile.mean()
    return profile, np.concatenate(([0.0], np.cumsum(profile)))
