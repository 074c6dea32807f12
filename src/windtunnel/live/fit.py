"""Correct an engine's overheads from a measurement, with part of it held out.

Fitted are the host time per step, the host time per scheduled request and step, and the time of a request
outside the scheduler: what a user's own machine, engine version and settings decide and no kernel table
holds. Kernel costs are left alone unless asked for; then one factor on their time is fitted besides, as
`KernelFactors` whose members move together. The loss is a robust sum (soft L1) of the log ratios of TTFT and
TPOT per request, over the first half of the run in time; the second half says what was gained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from windtunnel.live.measurement import Floats, Measurement
from windtunnel.live.replay import Replayed, replay
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec

TRAINED = 0.5
"""The first half of the requests, in order of their due time, is fitted; the second is held out."""
SCALES = {"step_host_s": 1e-3, "request_host_s": 1e-5, "frontend_s": 1e-2}
"""The fitted overheads, and the size that each is expected to be of."""
RATES = (
    "measured", "gemm_compute", "gemm_memory", "decode_attention", "prefill_attention", "experts_compute",
    "experts_memory",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted engine and what it improved.

    Attributes:
        before, after: the deployment with its old and its fitted engine.
        fields: the fitted fields and their new values.
        error_before, error_after: mean absolute log ratio of TTFT and TPOT per request by half
            (`fitted`, `held out`).
        requests: how many requests each half holds.
    """

    before: DeploymentSpec
    after: DeploymentSpec
    fields: dict[str, float]
    error_before: dict[str, float]
    error_after: dict[str, float]
    requests: dict[str, int]

    @property
    def improved(self) -> bool:
        """Whether the held-out half is predicted better than before."""
        return self.error_after["held out"] < self.error_before["held out"]


def fit(
    deployment: DeploymentSpec,
    measured: Measurement,
    *,
    kernels: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    rounds: int = 120,
) -> Fit:
    """Fit the engine's overheads to a measurement.

    Args:
        deployment: what was measured.
        measured: requests with their times.
        kernels: fit one factor on the time of all kernels too.
        progress: called with (evaluations, most, what).
        rounds: most simulations.

    Raises:
        SpecError: nothing was answered.
    """
    from scipy.optimize import least_squares

    count = 0

    def residuals(point: Floats) -> Floats:
        nonlocal count
        count += 1
        if progress is not None:
            progress(min(count, rounds), rounds, "fitting")
        predicted = replay(_with(deployment, point, kernels), measured)
        ratios = log_ratios(measured, predicted)
        return ratios[:, trained(predicted, measured)].ravel()

    start = _point(deployment.engine, kernels)
    # Latencies are rounded to whole steps, so differences are taken wide, and less so near the end. Every
    # evaluation counts, those of the gradient too.
    evaluations = max(rounds // (2 * (len(start) + 1)), 2)
    point = start
    for width in (0.4, 0.15):
        found = least_squares(
            residuals, point, bounds=(0.0, np.inf), diff_step=width, loss="soft_l1", f_scale=0.1, max_nfev=evaluations
        )
        point = found.x
    after = _with(deployment, point, kernels)
    old, new = replay(deployment, measured), replay(after, measured)
    mask = trained(old, measured)
    return Fit(
        before=deployment,
        after=after,
        fields=_fields(point, kernels),
        error_before=errors(measured, old),
        error_after=errors(measured, new),
        requests={"fitted": int(mask.sum()), "held out": int((~mask).sum())},
    )


def trained(replayed: Replayed, measured: Measurement) -> np.ndarray:
    """Which of the replayed requests are fitted: the first half in time."""
    due_s = measured.due_s[replayed.rows]
    return due_s <= np.quantile(due_s, TRAINED)


def log_ratios(measured: Measurement, replayed: Replayed) -> Floats:
    """Log of predicted over measured TTFT and TPOT, shape (2, requests); 0 where a request has none."""
    found = []
    for metric in ("ttft", "tpot"):
        a, b = measured.latency_s(metric)[replayed.rows], replayed.latency_s(metric)
        known = np.isfinite(a) & np.isfinite(b) & (a > 0) & (b > 0)
        found.append(np.log(np.where(known, b, 1.0) / np.where(known, a, 1.0)))
    return np.stack(found)


def errors(measured: Measurement, replayed: Replayed) -> dict[str, float]:
    """Mean absolute log ratio of TTFT and TPOT per request, for both halves."""
    mask, ratios = trained(replayed, measured), np.abs(log_ratios(measured, replayed))
    return {"fitted": float(ratios[:, mask].mean()), "held out": float(ratios[:, ~mask].mean())}


def _point(engine: EngineSpec, kernels: bool) -> Floats:
    """The search's start: square roots in units of `SCALES`, so that no overhead can fall below zero."""
    values = [max(np.sqrt(getattr(engine, name) / scale), 0.3) for name, scale in SCALES.items()]
    return np.array([*values, *([1.0] if kernels else [])])


def _fields(point: Floats, kernels: bool) -> dict[str, float]:
    overheads = np.square(point[: len(SCALES)]) * np.array(list(SCALES.values()))
    found = {name: float(f"{value:.3g}") for name, value in zip(SCALES, overheads, strict=True)}
    if kernels:
        found["kernel_rate"] = float(f"{1.0 / max(point[-1], 0.05):.3g}")
    return found


def _with(deployment: DeploymentSpec, point: Floats, kernels: bool) -> DeploymentSpec:
    """The deployment with its engine at a point of the search."""
    fields = _fields(point, kernels)
    rate = fields.pop("kernel_rate", None)
    update: dict[str, object] = dict(fields)
    if rate is not None:
        old = deployment.engine.kernels
        update["kernels"] = old.model_copy(update={name: getattr(old, name) * rate for name in RATES})
    return deployment.model_copy(update={"engine": deployment.engine.model_copy(update=update)})
