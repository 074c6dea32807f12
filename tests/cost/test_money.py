from __future__ import annotations

import pytest

from windtunnel.cost.money import deployment_usd_per_h, usd_per_million_by_kind, usd_per_million_tokens
from windtunnel.errors import SpecError
from windtunnel.specs.assemble import deployment
from windtunnel.specs.plan import PlanSpec

FOUR = deployment("llama-3.1-8b", "h100-sxm", plan=PlanSpec(tensor_parallel=2, replicas=2))


def test_every_accelerator_is_paid_for() -> None:
    assert deployment_usd_per_h(FOUR, overrides={"h100-sxm": 2.5}) == 10.0
    assert deployment_usd_per_h(FOUR) > 0


def test_an_unknown_provider_has_no_price() -> None:
    with pytest.raises(SpecError, match="no price"):
        deployment_usd_per_h(FOUR, provider="Nobody")


def test_dollars_per_million_tokens() -> None:
    assert usd_per_million_tokens(3.6, 1000.0) == pytest.approx(1.0)
    assert usd_per_million_tokens(3.6, 0.0) == float("inf")
    prompt, output = usd_per_million_by_kind(10.0, 3000.0, 700.0, output_weight=3.0)
    assert (prompt * 3000 + output * 700) * 3600 / 1e6 == pytest.approx(10.0)
    assert output == 3 * prompt
