"""A model with sliding-window layers: blocks counted one by one against blocks of a typical length."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.memory import memory_need
from windtunnel.cost.surface import linear_surface
from windtunnel.errors import SpecError
from windtunnel.search.evaluate import settings_of
from windtunnel.serving.run import run
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import resolve
from windtunnel.workload.table import request_table

PROMPT, OUTPUT = 2500, 100


def gpt_oss(**engine: object) -> DeploymentSpec:
    changed = resolve("engines", "vllm").model_copy(update={"enable_prefix_caching": False, **engine})
    return deployment("gpt-oss-20b", "h100-sxm", engine=changed)


def test_both_counts_fill_the_cache_alike() -> None:
    workload = request_table(np.zeros(12), np.full(12, PROMPT), np.full(12, OUTPUT))
    shares = []
    for hybrid in (False, True):
        spec = gpt_oss(hybrid_kv_cache=hybrid)
        settings = settings_of(spec, memory_need(spec, request_tokens=PROMPT + OUTPUT))
        assert (settings.window_groups > 0) == hybrid
        result = run(workload, linear_surface(1e-3, 1e-6), settings, compiled=False)
        shares.append(result.peak_blocks[0] / settings.num_blocks)
    assert shares[1] == pytest.approx(shares[0], rel=0.05)


def test_prefix_caching_is_refused_beside_it() -> None:
    spec = gpt_oss(hybrid_kv_cache=True, enable_prefix_caching=True)
    with pytest.raises(SpecError, match="windowed"):
        settings_of(spec, memory_need(spec))
