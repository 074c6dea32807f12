"""Early exit against its own arithmetic: shares of layers, limits of the rules, and what a step costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.depth import batch_share, survival
from windtunnel.cost.limits import bounds
from windtunnel.cost.steps import price_step
from windtunnel.errors import SpecError
from windtunnel.operators.batch import decode_batch
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.depth import DepthSpec
from windtunnel.workload.table import request_table


def deployment(depth: dict[str, object] | None, model: str = "llama-3.1-8b") -> DeploymentSpec:
    engine = {"extends": "vllm", "max_model_len": 4096} | ({"depth": depth} if depth else {})
    return load_deployment({"model": model, "accelerator": "h100-sxm", "engine": engine})


@given(mean=st.floats(0.05, 1.0), part=st.floats(0.0, 1.0), layers=st.integers(2, 100))
def test_the_mean_share_is_met_and_shares_fall(mean: float, part: float, layers: int) -> None:
    stays = survival(DepthSpec(mean_share=mean, least_share=part * mean), layers)
    assert np.all(np.diff(stays) <= 1e-12)
    assert stays.mean() == pytest.approx(mean, abs=2e-3)


def test_the_deepest_of_many_tokens_runs_nearly_all_layers() -> None:
    spec = DepthSpec(mean_share=0.5, rule="deepest")
    shares = batch_share(spec, 32, np.array([1, 2, 8, 64, 256]))
    assert shares[0] == pytest.approx(0.5, abs=1e-3)
    assert np.all(np.diff(shares) > 0)
    assert shares[-1] > 0.97
    stays = survival(spec, 32)
    draw = np.random.default_rng(0).random((20_000, 8))
    depths = (draw[:, :, None] < stays).sum(axis=2)  # layers that each token runs
    assert shares[2] == pytest.approx(depths.max(axis=1).mean() / 32, rel=0.01)


def device_s(depth: dict[str, object] | None, requests: int = 32) -> float:
    return price_step(deployment(depth), decode_batch(requests, 800, 0)).device_s


def test_half_the_layers_take_half_of_what_layers_take() -> None:
    full, half = device_s(None), device_s({"mean_share": 0.5})
    rows = price_step(deployment(None), decode_batch(32, 800, 0)).operators
    head = sum(row.seconds for row in rows if row.operator.part == "sampled")
    assert half - head == pytest.approx(0.5 * (full - head), rel=0.02)


def test_all_layers_change_nothing() -> None:
    plain, full = step_surface(deployment(None)), step_surface(deployment({"mean_share": 1.0}))
    np.testing.assert_allclose(full.decode_s, plain.decode_s, atol=1e-12)
    np.testing.assert_allclose(full.token_j, plain.token_j)


@pytest.mark.parametrize("requests", [1, 16, 128])
def test_rules_in_their_order(requests: int) -> None:
    """A batch that leaves as one saves most; one that shrinks reads weights for few; one that waits saves least."""

    def step_s(rule: str) -> float:
        surface = step_surface(deployment({"mean_share": 0.5, "rule": rule}))
        return float(surface.token_s[requests] + surface.decode_s[requests, 20])

    plain = step_surface(deployment(None))
    full = float(plain.token_s[requests] + plain.decode_s[requests, 20])
    tolerance = 1e-9
    assert step_s("together") <= step_s("each") + tolerance
    assert step_s("each") <= step_s("deepest") * 1.01
    assert step_s("deepest") <= full + tolerance
    assert step_s("together") > 0.4 * full


def test_a_step_of_the_surface_is_the_step_that_explain_prices() -> None:
    for rule in ("together", "deepest"):
        one = deployment({"mean_share": 0.4, "rule": rule})
        surface = step_surface(one)
        cost = price_step(one, decode_batch(64, 512, 0))
        column = 1 + (9 - 4) * 8  # a mean context of 512
        body = surface.token_s[64] + surface.decode_s[64, column] + surface.sample_s[64]
        assert float(body) == pytest.approx(cost.device_s, rel=0.01)


def test_prompts_run_all_layers() -> None:
    load = request_table(np.zeros(1), np.full(1, 2000), np.full(1, 1))
    plain, early = serve(deployment(None), load), serve(deployment({"mean_share": 0.3}), load)
    assert early.metrics.latency_s["ttft"]["p50"] == pytest.approx(plain.metrics.latency_s["ttft"]["p50"])


def test_bounds_of_the_search_stay_below_what_is_simulated() -> None:
    load = request_table(0.02 * np.arange(200), np.full(200, 100), np.full(200, 100))
    for rule in ("together", "each", "deepest"):
        one = deployment({"mean_share": 0.3, "rule": rule})
        limit = bounds(one, 100.0, 100.0)
        assert limit.tpot_s <= serve(one, load).metrics.latency_s["tpot"]["p50"]


def test_mistakes_are_named() -> None:
    with pytest.raises(SpecError, match="above mean_share"):
        deployment({"mean_share": 0.2, "least_share": 0.5})
    with pytest.raises(SpecError, match="must not increase"):
        deployment({"survival": [0.5, 0.9]})
    with pytest.raises(SpecError, match="a share per layer"):
        deployment({"survival": [1.0, 0.5]})
    with pytest.raises(SpecError, match="sliding windows"):
        deployment({"mean_share": 0.5}, "gemma-2-9b")
