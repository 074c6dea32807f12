"""What a step surface shares, how long it takes to build, and that the whole catalogue can be built."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.memory import memory_need
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import names, resolve
from windtunnel.specs.plan import PlanSpec

LARGE = resolve("engines", "vllm-large").model_copy(update={"max_num_seqs": 256})


def test_shapes_follow_the_engines_limits() -> None:
    found = deployment("llama-3.1-8b", "h100-sxm", engine=LARGE)
    surface = step_surface(found)
    assert surface.max_tokens == 8192
    assert surface.max_requests == 256
    assert surface.decode_s.shape[0] == 257
    assert surface.decode_window_s.size == 0
    assert surface.static_w == 70.0


def test_replicas_and_stages_share_tables() -> None:
    one = step_surface(deployment("llama-3.1-8b", "h100-sxm", engine=LARGE))
    many = step_surface(deployment("llama-3.1-8b", "h100-sxm", engine=LARGE, plan=PlanSpec(replicas=4)))
    assert np.shares_memory(one.token_s, many.token_s)
    staged = step_surface(deployment("llama-3.1-8b", "h100-sxm", engine=LARGE, plan=PlanSpec(pipeline_parallel=2)))
    assert np.shares_memory(one.token_s, staged.token_s)
    assert staged.static_w == 2 * one.static_w
    with pytest.raises(ValueError, match="read-only"):
        one.token_s[1] = 0.0


def test_without_graphs_a_small_step_waits_for_its_launches() -> None:
    eager = LARGE.model_copy(update={"graphs": False, "launch_s": 10e-6})
    found = deployment("llama-3.2-1b", "h100-sxm", engine=eager)
    surface = step_surface(found)
    step = price_step(found, decode_batch(1, 16))
    assert step.launch_wait_s > 0
    assert surface.token_s[1] == pytest.approx((16 * 9 + 2) * 10e-6, rel=1e-9)
    assert surface.token_s[1] > step_surface(deployment("llama-3.2-1b", "h100-sxm", engine=LARGE)).token_s[1]


@pytest.mark.parametrize("name", names("models"))
def test_every_model_of_the_catalogue_has_a_surface(name: str) -> None:
    short = resolve("engines", "vllm").model_copy(update={"max_num_seqs": 16, "max_num_batched_tokens": 64})
    found = deployment(name, "b200-sxm", engine=short)
    surface = step_surface(found)
    assert np.isfinite(surface.token_s).all()
    assert (np.diff(surface.decode_s[1:], axis=1) >= 0).all()
    assert surface.token_s[1] > 0
    assert memory_need(found).taken_bytes > 0


@pytest.mark.parametrize("name", names("accelerators"))
def test_every_accelerator_of_the_catalogue_has_a_surface(name: str) -> None:
    short = resolve("engines", "vllm").model_copy(update={"max_num_seqs": 16, "max_num_batched_tokens": 64})
    surface = step_surface(deployment("llama-3.1-8b", name, engine=short))
    assert np.isfinite(surface.token_s).all()
    assert surface.token_s[1] > 0
