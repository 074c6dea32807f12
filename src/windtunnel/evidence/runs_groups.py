"""Data-parallel engines that share experts, replayed as one scheduler: what that leaves out of a step.

Their ranks step together, so a step lasts as long as the slowest rank. Decoding requests are dealt out
evenly, but a step seldom holds more than one prompt, and all of it lies with one rank: the products,
norms and attention over its tokens take as long as they take there, not a share of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.price import pricing_of, seconds_of
from windtunnel.cost.surface import StepSurface
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.expand import token_operators
from windtunnel.operators.matmul import Matmul
from windtunnel.specs.deployment import DeploymentSpec

SUMS = slice(1, 6)
"""Coefficients of a step's sums over its prompts; what one tile takes does not grow with them."""


def prompts_on_one_rank(
    surface: StepSurface, deployment: DeploymentSpec, kernels: MeasuredKernels | None
) -> StepSurface:
    """The surface with each step's prompts on one of the groups instead of dealt out among all.

    Args:
        surface: of the deployment, as if its groups shared every prompt.
        deployment: with or without groups; without them the surface is returned as it is.
        kernels: what priced the surface.
    """
    groups = deployment.plan.attention_data_parallel
    if groups == 1:
        return surface
    budget = deployment.engine.max_num_batched_tokens
    device, links = pricing_of(deployment, kernels)
    own = np.zeros(2)
    for operator in token_operators(deployment.model, deployment.plan, np.array([budget / 2.0, float(budget)])):
        if isinstance(operator, Matmul | Elementwise):
            own += operator.count * seconds_of(operator, device, links)
    per_token_s = float(own[1] - own[0]) / (budget / 2.0)
    prefill_s = surface.prefill_s.copy()
    prefill_s[SUMS] *= groups
    prefill_s[1] += (groups - 1) * per_token_s
    return replace(surface, prefill_s=prefill_s)
