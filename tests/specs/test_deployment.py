"""The deployment: what it derives from its parts."""

from __future__ import annotations

import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.assemble import deployment
from windtunnel.specs.engine import HOST_TIMES, EngineSpec
from windtunnel.specs.load import resolve

ENGINE = resolve("engines", "vllm-server")


def test_a_hosts_speed_scales_the_hosts_work_alone() -> None:
    found = deployment("llama-3.1-8b", "h100-sxm", engine=ENGINE)
    assert found.hosted_engine is found.engine
    slow = found.model_copy(update={"node": found.node.model_copy(update={"host_time": 2.0})})
    for name in EngineSpec.model_fields:
        by = 2.0 if name in HOST_TIMES else 1.0
        value = getattr(found.engine, name)
        assert getattr(slow.hosted_engine, name) == (value * by if by != 1.0 else value)


def test_steps_and_their_surface_agree_on_the_host() -> None:
    found = deployment("llama-3.1-8b", "h100-sxm", engine=ENGINE)
    fast = found.model_copy(update={"node": found.node.model_copy(update={"host_time": 0.5})})
    batch = decode_batch(8, 1000)
    assert price_step(fast, batch).host_s == pytest.approx(0.5 * price_step(found, batch).host_s)
    surface = step_surface(fast)
    assert surface.host_s == pytest.approx(0.5 * step_surface(found).host_s)
    # A prompt's step beyond the captured graphs waits for launches, which take half as long.
    prompt = prefill_batch([(0, 600)])
    assert price_step(fast, prompt).total_s < price_step(found, prompt).total_s
    assert surface.token_s[600] < step_surface(found).token_s[600]
