"""Where the gap between a prediction and a measurement comes from, from its decomposed residuals.

The end-to-end residual of a request is its TTFT residual plus its decode residual. Decode first: the
measured time per token is fitted as `a + b * expected` over the requests (Theil-Sen, so that stragglers do not
count), where `expected` prices a step at the number of requests that were decoding with it *in the
measurement*, so that a slower engine's fuller batches are not blamed on its kernels. b other than 1 is kernel
cost, a other than 0 a time per step that does not depend on the step, as host overhead does; what the
prediction's own batches explain less is load. TTFT of requests that the prediction serves at once is prefill
and front end; what TTFT misses beyond that, for those that had to wait, is queueing. Prefix cache, preemptions
and batches are compared where the engine's gauges were kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.surface import context_grid
from windtunnel.live.measurement import Floats, Measurement
from windtunnel.live.replay import Replayed
from windtunnel.search.evaluate import overlaps

AT_ONCE_S = 1e-3
"""A request that waits less in the prediction is one that did not queue."""
FEW = 8
SPREAD = 0.15
"""Predicted times per token must differ by so much (relative) to tell a slope from a constant."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of the gap.

    Attributes:
        what: `kernel cost`, `host overhead`, `prefill and front end`, `queueing`, `prefix cache`, ...
        seconds: mean per request by which measurement exceeds prediction because of it (negative: falls short).
        share: |seconds| over the mean measured end-to-end time.
        why: the finding in words.
    """

    what: str
    seconds: float
    share: float
    why: str


def reasons_for(measured: Measurement, predicted: Replayed) -> tuple[Reason, ...]:
    """The parts of the gap, the largest first; those under 0.5 % of the end-to-end time are left out."""
    rows = predicted.rows
    e2e_s = float(np.nanmean(measured.e2e_s[rows]))
    found: list[tuple[str, float, str]] = []
    found += _decode(measured, predicted)
    found += _first_token(measured, predicted)
    reasons = [Reason(what, s, abs(s) / e2e_s, why) for what, s, why in found if abs(s) / e2e_s >= 0.005]
    reasons.sort(key=lambda reason: -reason.share)
    return (*reasons, *_gauges(measured, predicted))


def theil_sen(x: Floats, y: Floats) -> tuple[float, float]:
    """Slope and constant of a line through points, by the median of slopes (Sen, JASA 1968)."""
    from scipy.stats import theilslopes

    if len(x) > 1000:  # the method looks at every pair
        chosen = np.random.default_rng(0).choice(len(x), 1000, replace=False)
        x, y = x[chosen], y[chosen]
    result = theilslopes(y, x)
    return float(result[0]), float(result[1])


def _decode(measured: Measurement, predicted: Replayed) -> list[tuple[str, float, str]]:
    rows = predicted.rows
    observed, expected = measured.tpot_s[rows], predicted.tpot_s
    gaps = np.maximum(measured.output_received[rows] - 1, 0)
    use = np.isfinite(observed) & np.isfinite(expected) & (gaps > 0)
    if use.sum() < FEW:
        return []
    x, y, gaps = expected[use], observed[use], gaps[use]
    mean_gaps = float(np.sum(gaps)) / len(rows)
    same_batch = expected_at_measured_batch(measured, predicted)
    load: list[tuple[str, float, str]] = []
    if same_batch is not None:
        moved_s = float(np.median(same_batch[use])) - float(np.median(x))
        why = f"batches are of another size than predicted, which alone changes a step by {_ms(moved_s)}"
        load = [("load", moved_s * mean_gaps, why)]
        x = same_batch[use]
    if np.quantile(x, 0.9) < (1 + SPREAD) * np.quantile(x, 0.1):
        gap_s = float(np.median(y - x))
        why = (
            f"every decode step takes {_ms(gap_s)} more; all steps are alike, so kernels and host cannot be told apart"
        )
        return [*load, ("decode steps", gap_s * mean_gaps, why)]
    slope, constant_s = theil_sen(x, y)
    typical_s = float(np.median(x))
    kernel_s = (slope - 1.0) * typical_s
    return [
        (
            "kernel cost",
            kernel_s * mean_gaps,
            f"decode steps scale by {slope:.2f} with what is predicted for their batch",
        ),
        (
            "host overhead",
            constant_s * mean_gaps,
            f"{_ms(constant_s)} a step whatever its batch, as host work (or slower streaming of weights) takes",
        ),
    ]


def expected_at_measured_batch(measured: Measurement, predicted: Replayed) -> Floats | None:
    """Predicted time per token of each request had it shared its steps with as many others as it did in fact.

    The prediction is scaled by the surface's ratio between the batches of both sides. Each of a request's steps
    takes what the decodes beside it take; the prompts computed meanwhile come on top. None where the prediction
    is a table, or has pipeline stages.
    """
    run = predicted.run
    if run is None or run.deployment.plan.pipeline_parallel > 1:
        return None
    rows = predicted.rows
    due_s = measured.due_s[rows]
    own_s = _by_batch(measured, predicted, due_s + predicted.ttft_s, due_s + predicted.e2e_s)
    there_s = _by_batch(measured, predicted, measured.first_token_s[rows], measured.finish_s[rows])
    found: Floats = predicted.tpot_s * there_s / own_s
    return found


def _by_batch(measured: Measurement, predicted: Replayed, first_s: Floats, last_s: Floats) -> Floats:
    """Seconds per token that the surface gives for the batches in which requests decode at these times."""
    run = predicted.run
    assert run is not None
    surface = step_surface(run.deployment)
    rows = predicted.rows
    batch = mean_overlap(first_s, last_s) / run.deployment.plan.replicas
    prompt = np.where(measured.prompt_reported > 0, measured.prompt_reported, measured.prompt_tokens)[rows]
    output = measured.output_received[rows]
    context = float(np.sum((prompt + output / 2) * output) / np.sum(output))
    b = np.clip(np.round(batch), 1, surface.max_requests).astype(np.int64)
    grid = context_grid(run.deployment.max_model_len)[: surface.decode_s.shape[1]]
    attention_s = np.array([np.interp(context, grid, surface.decode_s[n, : len(grid)]) for n in range(b.max() + 1)])
    step_s = surface.token_s[b] + surface.sample_s[b] + attention_s[b] + surface.host_s + surface.host_request_s * b
    # The prompts of others that were computed between a request's first and last token held up its steps.
    tokens = np.minimum(prompt, surface.max_tokens)
    alone_s = surface.token_s[np.minimum(tokens + b, surface.max_tokens)] - surface.token_s[b]
    _, per_token_s, per_pair_s, _, per_read_s, per_prompt_s, per_key_s, _ = surface.prefill_s
    prompt_s = alone_s * prompt / tokens + per_token_s * prompt + per_pair_s * prompt * (prompt + 1) / 2
    prompt_s += (per_read_s + per_key_s) * prompt + per_prompt_s
    order = np.argsort(first_s)
    work_s = np.concatenate([[0.0], np.cumsum(prompt_s[order])])
    inside = (
        np.searchsorted(first_s[order], last_s, side="right"),
        np.searchsorted(first_s[order], first_s, side="right"),
    )
    held_s = work_s[inside[0]] - work_s[inside[1]]
    found: Floats = step_s + held_s / np.maximum(output - 1, 1)
    return found


def mean_overlap(start_s: Floats, end_s: Floats) -> Floats:
    """Mean number of intervals that are open during each interval, itself included.

    >>> mean_overlap(np.array([0.0, 0.0]), np.array([2.0, 1.0])).tolist()
    [1.5, 2.0]
    """
    moments = np.unique(np.concatenate([start_s, end_s]))
    change = np.zeros(len(moments))
    np.add.at(change, np.searchsorted(moments, start_s), 1.0)
    np.add.at(change, np.searchsorted(moments, end_s), -1.0)
    area: Floats = np.concatenate([[0.0], np.cumsum(np.cumsum(change)[:-1] * np.diff(moments))])
    a, b = np.searchsorted(moments, start_s), np.searchsorted(moments, end_s)
    mean: Floats = (area[b] - area[a]) / np.maximum(end_s - start_s, 1e-12)
    return mean


def _first_token(measured: Measurement, predicted: Replayed) -> list[tuple[str, float, str]]:
    rows = predicted.rows
    gap_s = measured.ttft_s[rows] - predicted.ttft_s
    use = np.isfinite(gap_s)
    at_once = use & (predicted.wait_s < _at_once_s(predicted))
    found = []
    base_s = 0.0
    if at_once.sum() >= FEW:
        base_s = float(np.median(gap_s[at_once]))
        why = f"requests that need not wait get their first token {_ms(base_s)} later than predicted"
        found.append(("prefill and front end", base_s, why))
    rest_s = float(np.mean(gap_s[use])) - base_s if use.any() else 0.0
    why = f"beyond that, first tokens come {_ms(rest_s)} later on average, by waiting and by chunks shared with others"
    found.append(("queueing", rest_s, why))
    return found


def _at_once_s(predicted: Replayed) -> float:
    """Up to which predicted wait a request did not queue: engines that compose ahead take it up two steps on."""
    run = predicted.run
    if run is None or not overlaps(run.deployment):
        return AT_ONCE_S
    return max(AT_ONCE_S, 2.0 * float(np.nanmedian(predicted.tpot_s)))


def _gauges(measured: Measurement, predicted: Replayed) -> list[Reason]:
    """What the engine said of itself beside what the simulation did."""
    if predicted.run is None or not measured.engine:
        return []
    found = []
    metrics = predicted.run.metrics
    hits, queries = (measured.engine.get(name) for name in ("prefix_hits", "prefix_queries"))
    if hits is not None and queries is not None and np.nanmax(queries) > np.nanmin(queries):
        share = float((np.nanmax(hits) - np.nanmin(hits)) / (np.nanmax(queries) - np.nanmin(queries)))
        if abs(share - metrics.prefix_hit_share) > 0.05:
            own = metrics.prefix_hit_share
            why = f"the engine found {share:.0%} of the looked-up tokens cached, the prediction {own:.0%}"
            found.append(Reason("prefix cache", float("nan"), float("nan"), why))
    preempted = measured.engine.get("preemptions")
    if preempted is not None:
        count = int(np.nanmax(preempted) - np.nanmin(preempted))
        if abs(count - metrics.preemptions) > 0.2 * max(count, metrics.preemptions) + 2:
            why = f"the engine preempted {count:,} times, the prediction {metrics.preemptions:,} times"
            found.append(Reason("KV cache", float("nan"), float("nan"), why))
    running = measured.engine.get("running")
    series = predicted.run.simulation.series
    if running is not None and series is not None and len(series.running):
        seen = measured.engine["time_s"]
        inside = (seen >= 0) & (seen <= measured.duration_s)
        if inside.sum() >= FEW:
            a, b = float(np.nanmean(running[inside])), float(series.running.mean())
            if abs(a - b) > 0.1 * max(a, b) + 1:
                why = f"on average {a:.1f} requests ran in the engine, {b:.1f} in the prediction"
                found.append(Reason("scheduling", float("nan"), float("nan"), why))
    return found


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:+.2f} ms"
