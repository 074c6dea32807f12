"""Sparse attention's kernels against what was measured of them, and decode that stops growing but for the index."""

from __future__ import annotations

import numpy as np
import pytest

from windtunnel.cost.device import Device, device_of
from windtunnel.cost.price import pricing_of, seconds_of
from windtunnel.cost.sparse_attention import index_choice_seconds, index_scores_seconds, sparse_prefill_seconds
from windtunnel.cost.steps import price_step
from windtunnel.operators.batch import decode_batch
from windtunnel.operators.expand import decode_operators, decode_window_operators
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

H200, B300, A100 = (device_of(resolve("accelerators", name)) for name in ("h200-sxm", "b300-sxm", "a100-80g-sxm"))
GLM = deployment("glm-5", "b300-sxm", plan=PlanSpec(tensor_parallel=8, weight_dtype="fp8", kv_dtype="fp8"))
SHAPE: dict[str, int] = {"topk": 2048, "latent_dim": 512, "rope_dim": 64}


@pytest.mark.parametrize(("device", "low_ps", "high_ps"), [(B300, 5.3, 6.4), (H200, 10.9, 13.4)])
def test_the_index_of_a_prompt_takes_so_long_a_pair(device: Device, low_ps: float, high_ps: float) -> None:
    """GLM-5's on SGLang 0.5.14: what 8,192 tokens take more after 131,072 cached ones than after 16,384."""
    pairs = 1e9
    moved = 4.0 * pairs + 132 * pairs / 8192
    seconds = index_scores_seconds(2.0 * 32 * 128 * pairs, moved, device)
    seconds = seconds + index_choice_seconds(8192, pairs, True, device)
    assert low_ps * 0.85 < float(seconds) / pairs * 1e12 < high_ps * 1.15


def test_one_query_is_worked_through_by_one_processor() -> None:
    one, many = (float(index_choice_seconds(rows, 65536 * rows, False, B300)) for rows in (1, 148))
    assert one == many
    assert float(index_choice_seconds(296, 65536 * 296, False, B300)) > 1.9 * one
    alone_ns = (float(index_choice_seconds(1, 131072, False, B300)) - one) / 65536 * 1e9
    assert alone_ns == pytest.approx(0.45, rel=0.05)


def test_the_queries_of_a_prompt_take_turns_on_the_processors() -> None:
    few, many = (float(index_choice_seconds(rows, 1e9, True, B300)) for rows in (4096, 8192))
    assert (many - few) / 4096 * 1e9 == pytest.approx(17.2, rel=0.01)


@pytest.mark.parametrize(
    ("device", "heads", "kv_bytes", "token_us"),
    [
        (B300, 64, 2.0, 0.476),
        (H200, 64, 2.0, 0.488),
        (H200, 8, 1.0, 0.69),
        (B300, 8, 1.0, 0.153),
        (B300, 64, 1.0, 0.256),
    ],
)
def test_prompts_after_a_long_context(device: Device, heads: int, kv_bytes: float, token_us: float) -> None:
    """Microseconds per token of 8,192, all of which choose 2,048 latents."""
    tokens = 8192.0
    one, two = (
        float(sparse_prefill_seconds(n, n * 2048, heads=heads, kv_bytes=kv_bytes, device=device, **SHAPE))
        for n in (tokens, 2 * tokens)
    )
    assert (two - one) / tokens * 1e6 == pytest.approx(token_us, rel=0.1)


def test_padded_kernels_take_as_long_for_short_contexts_and_few_heads() -> None:
    def seconds(heads: int, pairs: float, kv_bytes: float) -> float:
        return float(sparse_prefill_seconds(1000, pairs, heads=heads, kv_bytes=kv_bytes, device=B300, **SHAPE))

    assert seconds(8, 1e5, 2.0) == seconds(128, 2e6, 2.0)
    assert seconds(8, 1e5, 1.0) < seconds(8, 2e6, 1.0) < seconds(128, 2e6, 1.0)


def test_a_device_without_a_known_kernel_has_a_price() -> None:
    assert float(sparse_prefill_seconds(100, 1e5, heads=16, kv_bytes=2.0, device=A100, **SHAPE)) > 0.0


def test_decode_saturates_but_for_the_index() -> None:
    device, links = pricing_of(GLM)

    def seconds(context: float) -> tuple[float, float]:
        index = decode_operators(GLM.model, GLM.plan, 8.0, 8.0 * context)
        attention = decode_window_operators(GLM.model, GLM.plan, 8.0, 8.0 * min(context, 2048.0))
        sums = (sum(one.count * float(seconds_of(one, device, links)) for one in part) for part in (index, attention))
        return next(sums), next(sums)

    (index, attention), (index_long, attention_long) = seconds(2048.0), seconds(131072.0)
    assert attention == attention_long > seconds(1024.0)[1]
    assert index < index_long
    full = deployment("deepseek-v3", "b300-sxm", plan=GLM.plan)
    sparse = deployment("deepseek-v3.2", "b300-sxm", plan=GLM.plan)
    times = [
        np.diff([price_step(one, decode_batch(64, n, one.model.attended_tokens)).total_s for n in (4096, 65536)])[0]
        for one in (full, sparse)
    ]
    assert 0.0 < times[1] < 0.5 * times[0]
