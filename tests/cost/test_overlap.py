"""Host work beside the device: the longer of the two counts, in the step's price and in the surface alike."""

from __future__ import annotations

import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.overlap import with_overlap
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve

ENGINE = resolve("engines", "vllm")
SLOW = ENGINE.model_copy(update={"overlapped_request_s": 1e-3})


def test_many_requests_wait_for_the_host() -> None:
    plain, slow = (deployment("llama-3.1-8b", "h100-sxm", engine=engine) for engine in (ENGINE, SLOW))
    batch = decode_batch(200, 100)
    hidden = price_step(plain, batch)
    assert price_step(slow, batch).total_s == pytest.approx(hidden.host_s + 0.2)
    assert price_step(slow, decode_batch(1, 100)).total_s == price_step(plain, decode_batch(1, 100)).total_s
    assert price_step(slow, prefill_batch([(0, 512)])).total_s == price_step(plain, prefill_batch([(0, 512)])).total_s


def test_the_surface_says_the_same() -> None:
    surface = step_surface(deployment("llama-3.1-8b", "h100-sxm", engine=SLOW))
    device_s = surface.token_s[200] + surface.sample_s[200] + surface.decode_s[200]
    assert device_s.min() == pytest.approx(0.2)
    assert with_overlap(surface, ENGINE) is surface
