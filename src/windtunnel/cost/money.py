"""Money: dollars per hour of a deployment, and per million tokens of what it serves."""

from __future__ import annotations

from collections.abc import Mapping

from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.prices import price_usd_per_h


def deployment_usd_per_h(
    deployment: DeploymentSpec, *, overrides: Mapping[str, float] | None = None, provider: str | None = None
) -> float:
    """US dollars per hour of all the deployment's accelerators.

    Args:
        deployment: what runs, replicas included.
        overrides: the user's own prices, US dollars per accelerator and hour.
        provider: take this provider's price instead of the catalogue's default.

    Raises:
        SpecError: no price is known for the accelerator.
    """
    price = price_usd_per_h(deployment.accelerator.name, overrides=overrides, provider=provider)
    return price.usd_per_h * deployment.accelerators


def usd_per_million_tokens(usd_per_h: float, tokens_per_s: float) -> float:
    """US dollars per million tokens at a rate of tokens (all of them, or only the generated ones).

    >>> usd_per_million_tokens(3.6, 1000.0)
    1.0
    """
    return usd_per_h / 3600.0 / tokens_per_s * 1e6 if tokens_per_s > 0 else float("inf")


def usd_per_million_by_kind(
    usd_per_h: float, prompt_tokens_per_s: float, output_tokens_per_s: float, output_weight: float = 1.0
) -> tuple[float, float]:
    """(prompt, generated) US dollars per million tokens when both carry the cost.

    Args:
        usd_per_h: cost of the deployment.
        prompt_tokens_per_s: prompt tokens served.
        output_tokens_per_s: tokens generated.
        output_weight: how many prompt tokens a generated token counts for (price lists charge 3 to 5).

    >>> usd_per_million_by_kind(3.6, 500.0, 125.0, output_weight=4.0)
    (1.0, 4.0)
    """
    per_token = usd_per_million_tokens(usd_per_h, prompt_tokens_per_s + output_weight * output_tokens_per_s)
    return per_token, output_weight * per_token
