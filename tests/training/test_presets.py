from __future__ import annotations

import pytest

from windtunnel.errors import SpecError
from windtunnel.training.presets import preset_plan, training_presets


@pytest.mark.parametrize("name", sorted(training_presets()))
def test_every_preset_is_a_plan_with_a_source(name: str) -> None:
    plan, engine = preset_plan(name, micro_batch=2)
    assert plan.micro_batch == 2
    assert engine
    assert training_presets()[name].source.url


def test_what_is_given_wins() -> None:
    assert preset_plan("zero-3", zero_group=8, compute_dtype="bf16")[0].compute_dtype == "bf16"


def test_a_misspelt_preset_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'zero-infinity'"):
        preset_plan("zero-infinty")
