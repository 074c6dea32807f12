"""Whether the machine ran evenly during a load, from the engine's own steps.

Each step has a price, whatever its batch. Second by second, how long steps took over their price is the machine's pace.
A second that is much slower than the calm ones had a disturbance (other work on the machine, or on its host), which
no prediction can know of and no reference before and after the load sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.cost.build_surface import step_surface
from windtunnel.live.measurement import Measurement
from windtunnel.live.replay import Replayed
from windtunnel.live.steps import Mask, kernel_seconds, observed_steps, shows_steps
from windtunnel.specs.deployment import DeploymentSpec

FEW = 5
"""A second with fewer steps than this, or a load with fewer such seconds, tells nothing."""
CALM = 0.25
"""The pace of the calm seconds is that of the calmest quarter (their slowest one)."""
SLOW = 1.25
"""A second is called disturbed when its steps took so many times as long as those of the calm ones."""


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How evenly a machine ran.

    Attributes:
        seconds: how many seconds could be judged.
        disturbed: how many of them were disturbed.
        pace: how long steps took over their price, in the median second.
        slowdown: median pace of the disturbed seconds over that of the others; 1 without any.
        calm: which of the measurement's requests saw no disturbed second from their due time to their last token.
    """

    seconds: int
    disturbed: int
    pace: float
    slowdown: float
    calm: Mask


def steadiness(measured: Measurement, deployment: DeploymentSpec) -> Steadiness | None:
    """How evenly the machine ran during a load; None where token times do not show it."""
    if not shows_steps(deployment):
        return None
    steps = observed_steps(measured, deployment)
    if len(steps) < FEW * FEW:
        return None
    surface = step_surface(deployment)
    requests = steps.decodes + steps.prompts
    price_s = kernel_seconds(surface, steps, deployment.max_model_len) + surface.host_s
    price_s = price_s + surface.host_request_s * requests
    ratio, second = steps.seconds / price_s, np.floor(steps.end_s).astype(np.int64)
    found = {int(one): ratio[second == one] for one in np.unique(second)}
    pace = {one: float(np.median(ratios)) for one, ratios in found.items() if len(ratios) >= FEW}
    if len(pace) < FEW:
        return None
    limit = SLOW * float(np.quantile(list(pace.values()), CALM))
    slow = [one for one, value in pace.items() if value > limit]
    others = [value for value in pace.values() if value <= limit]
    slowdown = float(np.median([pace[one] for one in slow]) / np.median(others)) if slow else 1.0
    usual = float(np.median(list(pace.values())))
    return Steadiness(len(pace), len(slow), usual, slowdown, _calm(measured, slow))


def steadiness_note(found: Steadiness, measured: Measurement, predicted: Replayed) -> str:
    """The pace of the steps, how long the machine was disturbed, and the errors of the requests that saw none of it."""
    text = f"steps took {found.pace:.2f} times their price in the median second"
    if not found.disturbed:
        return text
    text += (
        f"; in {found.disturbed} of {found.seconds} s something disturbed the machine, and they took "
        f"{found.slowdown:.2f} times as long as in the others"
    )
    calm = found.calm[predicted.rows]
    errors = []
    for metric in ("ttft", "tpot"):
        seen, expected = measured.latency_s(metric)[predicted.rows][calm], predicted.latency_s(metric)[calm]
        both = np.isfinite(seen) & np.isfinite(expected)
        if both.sum() >= FEW:
            errors.append(f"{metric}_p50 {np.median(expected[both]) / np.median(seen[both]) - 1.0:+.1%}")
    return text + (
        f"; errors of the {calm.sum():,} requests that saw none of it: {', '.join(errors)}" if errors else ""
    )


def _calm(measured: Measurement, slow: list[int]) -> Mask:
    """Requests that were not in the system during any of these seconds."""
    due_s, finish_s = measured.due_s, measured.finish_s
    calm = np.isfinite(finish_s)
    for second in slow:
        calm &= (finish_s < second) | (due_s > second + 1)
    return np.asarray(calm)
