from __future__ import annotations

import pytest

from windtunnel.evidence.training_memory import stated_bytes
from windtunnel.training.memory import MemoryPart, MemoryStack

STACK = MemoryStack(
    parts=(MemoryPart("weights", 10.0), MemoryPart("activations", 5.0), MemoryPart("gathered weights", 3.0)),
    stage=0,
    moment="loss",
    reserved_share=1.5,
    context_bytes=2.0,
    device_bytes=100.0,
    layers=1,
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("gib max allocated, rank max", 18.0),
        ("gib peak, max over ranks", 27.0),
        ("gpu memory per card (nvidia-smi style)", 29.0),
        ("paper figure is analytic", 15.0),
    ],
)
def test_the_total_that_a_source_means(said: str, expected: float) -> None:
    assert stated_bytes(STACK, said) == expected
