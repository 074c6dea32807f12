"""Correct an engine's overheads from measurements, with part of them held out.

Fitted are the host time per step, the host time per scheduled request and step, and the time of a request
outside the scheduler: what a user's own machine, engine version and settings decide and no kernel table
holds. Kernel costs are left alone unless asked for; then one factor on their time is fitted besides, as
`KernelFactors` whose members move together.

Where token times show the engine's steps (`windtunnel.live.steps`), the steps are fitted: each is linear in the
overheads, and a moment's disturbance of the machine spoils no more than the steps that it fell on. The time outside
the scheduler is then told by which step each request came into (`windtunnel.live.frontend`). Otherwise the loss is
taken over TTFT and TPOT per request, by simulation. Either way it is a robust sum (soft L1) of log ratios over the
first half of each run in time; the second half says what was gained.

One load may be measured in several runs with other loads between them: on a machine whose speed wanders, one run is
fitted to the speed of its minute, several to the machine's usual one.

Where profile and measurement know how fast the machine was (`windtunnel.live.drift`), each run is explained at its own
speed, and what comes out is at the profile's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from windtunnel.cost.build_surface import step_surface
from windtunnel.live.drift import Drift, at_speed, bound_shares, drift_of
from windtunnel.live.frontend import intervals, most_agreed
from windtunnel.live.measurement import Floats, Measurement
from windtunnel.live.replay import Replayed, replay
from windtunnel.live.steps import Steps, clusters, kernel_seconds, observed_steps, shows_steps
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec

TRAINED = 0.5
"""The first half of the requests, in order of their due time, is fitted; the second is held out."""
SCALES = {"step_host_s": 1e-3, "request_host_s": 1e-5, "frontend_s": 1e-2}
"""The fitted overheads, and the size that each is expected to be of."""
FEW_STEPS = 200
"""Fewer steps than this in the fitted half, and requests are fitted instead."""
STEP_SCALE = 0.05
"""Relative error from which a step counts less than by its square: about what steps of one batch differ by."""
Now = Callable[[DeploymentSpec], DeploymentSpec]
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
        steps: how many steps were fitted; 0 where requests were.
        drifts: of each run, the machine's speed relative to when it was profiled, which the fields leave out; None
            where it is not known.
    """

    before: DeploymentSpec
    after: DeploymentSpec
    fields: dict[str, float]
    error_before: dict[str, float]
    error_after: dict[str, float]
    requests: dict[str, int]
    steps: int = 0
    drifts: tuple[Drift | None, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether the held-out half is predicted better than before."""
        return self.error_after["held out"] < self.error_before["held out"]


@dataclass(frozen=True, slots=True)
class _Run:
    """One measurement, and what turns a deployment into the one that the machine ran then."""

    measured: Measurement
    drift: Drift | None
    now: Now

    def replayed(self, deployment: DeploymentSpec) -> Replayed:
        """The requests on a deployment, at this run's speed."""
        return replay(self.now(deployment), self.measured)

    def until_s(self) -> float:
        """When the fitted half ends."""
        return float(np.quantile(self.measured.due_s[self.measured.ok], TRAINED))


def fit(
    deployment: DeploymentSpec,
    *measured: Measurement,
    kernels: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    rounds: int = 120,
) -> Fit:
    """Fit the engine's overheads to measurements.

    Args:
        deployment: what was measured.
        measured: one run or several, requests with their times.
        kernels: fit one factor on the time of all kernels too.
        progress: called with (evaluations, most, what).
        rounds: most simulations.

    Raises:
        SpecError: nothing was answered.
    """
    runs = [_run(deployment, one) for one in measured]
    old = [one.replayed(deployment) for one in runs]
    steps = _fitted_steps(deployment, runs)
    if steps is not None:
        point = _from_steps(deployment, runs, steps, kernels)
    else:
        point = _from_requests(deployment, runs, kernels, progress, rounds)
    after = _with(deployment, point, kernels)
    new = [one.replayed(after) for one in runs]
    masks = np.concatenate([trained(found, one.measured) for one, found in zip(runs, old, strict=True)])
    return Fit(
        before=deployment,
        after=after,
        fields=_fields(point, kernels),
        error_before=errors(runs, old),
        error_after=errors(runs, new),
        requests={"fitted": int(masks.sum()), "held out": int((~masks).sum())},
        steps=sum(len(one) for one in steps or ()),
        drifts=tuple(one.drift for one in runs),
    )


def _run(deployment: DeploymentSpec, measured: Measurement) -> _Run:
    """A measurement with the machine's speed then."""
    drift, _ = drift_of(deployment, measured)
    if drift is None or not drift.any:
        return _Run(measured, drift, lambda profiled: profiled)
    shares = bound_shares(deployment, measured)
    return _Run(measured, drift, lambda profiled: at_speed(profiled, drift, shares))


def _fitted_steps(deployment: DeploymentSpec, runs: list[_Run]) -> list[Steps] | None:
    """The steps of each run's first half; None where there are too few, or token times do not show them."""
    if not shows_steps(deployment):
        return None
    found = []
    for one in runs:
        steps = observed_steps(one.measured, deployment)
        found.append(steps.only(steps.end_s <= one.until_s()) if one.measured.ok.any() else steps)
    return found if sum(map(len, found)) >= FEW_STEPS else None


def _from_steps(deployment: DeploymentSpec, runs: list[_Run], steps: list[Steps], kernels: bool) -> Floats:
    """The point at which steps take as long as they did, and first tokens come when they came."""
    from scipy.optimize import least_squares

    # One unit of each overhead, as long as it takes at each run's speed.
    unit = deployment.model_copy(update={"engine": deployment.engine.model_copy(update=SCALES)})
    units = [one.now(unit).engine for one in runs]
    device, host = [], []
    for one, its, engine in zip(runs, steps, units, strict=True):
        device.append(kernel_seconds(step_surface(one.now(deployment)), its, deployment.max_model_len))
        requests = (its.decodes + its.prompts).astype(np.float64)
        host.append(np.stack([np.full(len(its), engine.step_host_s), requests * engine.request_host_s], axis=1))
    device_s, host_s = np.concatenate(device), np.concatenate(host)
    seconds = np.concatenate([its.seconds for its in steps])

    def residuals(point: Floats) -> Floats:
        factor = point[2] if kernels else 1.0
        ratios: Floats = np.log((host_s @ np.square(point[:2]) + factor * device_s) / seconds)
        return ratios

    start = np.delete(_point(deployment.engine, kernels), 2)
    found = least_squares(residuals, start, bounds=(1e-6, np.inf), loss="soft_l1", f_scale=STEP_SCALE).x
    outside = _outside(deployment, runs, [engine.frontend_s for engine in units], np.insert(found, 2, 0.0), kernels)
    return np.insert(found, 2, np.sqrt(outside))


def _outside(deployment: DeploymentSpec, runs: list[_Run], unit_s: list[float], point: Floats, kernels: bool) -> float:
    """Time outside the scheduler, in units: from the steps that requests came into, or else from how late they are."""
    ends = [
        np.stack(intervals(one.measured, clusters(one.measured), one.until_s())) / size
        for one, size in zip(runs, unit_s, strict=True)
    ]
    found = most_agreed(*np.concatenate(ends, axis=1))
    if found is not None:
        return found
    bare, late = _with(deployment, point, kernels), []
    for one, size in zip(runs, unit_s, strict=True):
        predicted = one.replayed(bare)
        late_s = one.measured.ttft_s[predicted.rows] - predicted.ttft_s
        late.append(late_s[trained(predicted, one.measured)] / size)
    return max(float(np.nanmedian(np.concatenate(late))), 0.0)


def _from_requests(
    deployment: DeploymentSpec,
    runs: list[_Run],
    kernels: bool,
    progress: Callable[[int, int, str], None] | None,
    rounds: int,
) -> Floats:
    """The point at which the simulation's latencies are nearest to those measured."""
    from scipy.optimize import least_squares

    count = 0

    def residuals(point: Floats) -> Floats:
        nonlocal count
        count += 1
        if progress is not None:
            progress(min(count, rounds), rounds, "fitting")
        tried, found = _with(deployment, point, kernels), []
        for one in runs:
            predicted = one.replayed(tried)
            found.append(log_ratios(one.measured, predicted)[:, trained(predicted, one.measured)].ravel())
        return np.concatenate(found)

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
    return point


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


def errors(runs: list[_Run], replayed: list[Replayed]) -> dict[str, float]:
    """Mean absolute log ratio of TTFT and TPOT per request, for both halves of all runs."""
    both = list(zip(runs, replayed, strict=True))
    mask = np.concatenate([trained(found, one.measured) for one, found in both])
    ratios = np.abs(np.concatenate([log_ratios(one.measured, found) for one, found in both], axis=1))
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
