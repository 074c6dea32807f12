"""The step surface says what the operator-by-operator price says, to 1 %, whatever the batch."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.steps import price_step
from windtunnel.cost.surface import StepSurface, context_grid
from windtunnel.operators.batch import Batch, decode_batch, prefill_batch
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

CASES: dict[str, tuple[str, str, PlanSpec]] = {
    "dense": ("llama-3.1-8b", "h100-sxm", PlanSpec()),
    "dense TP PP": ("llama-3.1-70b", "a100-80g-sxm", PlanSpec(tensor_parallel=4, pipeline_parallel=2)),
    "across nodes": ("llama-3.1-70b", "h100-sxm", PlanSpec(tensor_parallel=8, pipeline_parallel=4)),
    "experts": ("mixtral-8x7b", "h100-sxm", PlanSpec(tensor_parallel=4, expert_parallel=2)),
    "latent": ("deepseek-v3", "h200-sxm", PlanSpec(tensor_parallel=8, expert_parallel=8, weight_dtype="fp8")),
    "sparse": ("glm-5", "b300-sxm", PlanSpec(tensor_parallel=8, weight_dtype="fp8", kv_dtype="fp8")),
    "windowed": ("gemma-2-9b", "l40s", PlanSpec(tensor_parallel=2)),
    "linear": ("qwen3.5-397b-a17b", "b200-sxm", PlanSpec(tensor_parallel=8, weight_dtype="fp8")),
    "norms over all heads": ("minimax-m2.5", "h200-sxm", PlanSpec(tensor_parallel=4, weight_dtype="fp8")),
    "learned positions": ("opt-13b", "a100-40g-sxm", PlanSpec()),
    "kernels that do more": ("qwen3-30b-a3b", "h200-sxm", PlanSpec(tensor_parallel=4, weight_dtype="fp8")),
    "unfused kernels": ("llama-3-8b", "rtx-4090", PlanSpec(weight_dtype="q4_k_m")),
}
LIMITS = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
ENGINES = {
    "kernels that do more": resolve("engines", "tensorrt-llm").model_copy(update=LIMITS),
    "unfused kernels": resolve("engines", "llama.cpp").model_copy(update=LIMITS),
}


@cache
def built(case: str) -> tuple[DeploymentSpec, StepSurface]:
    model, accelerator, plan = CASES[case]
    found = deployment(model, accelerator, plan=plan, engine=ENGINES.get(case, "vllm"))
    return found, step_surface(found)


def evaluated(surface: StepSurface, batch: Batch, max_context: int) -> tuple[float, float]:
    """(seconds through all stages, joules), read off the surface as its docstring says."""
    body, joules = surface.token_s[batch.tokens], surface.token_j[batch.tokens]
    if batch.decode_requests:
        grid = context_grid(max_context)
        n = batch.decode_requests
        body += np.interp(batch.decode_context_tokens / n, grid, surface.decode_s[n])
        if surface.window_tokens:
            body += np.interp(batch.decode_window_tokens / n, grid, surface.decode_window_s[n])
        joules += surface.decode_j @ [n, batch.decode_context_tokens, batch.decode_window_tokens]
    if batch.prefill_tokens:
        sums = [
            1,
            batch.prefill_tokens,
            batch.prefill_pairs,
            batch.prefill_window_pairs,
            batch.prefill_context_tokens,
            batch.prefill_requests,
            *batch.prefill_keys,
        ]
        body += surface.prefill_s @ sums
        joules += surface.prefill_j @ sums
    hops = (len(surface.stage_share) - 1) * (surface.hop_s[batch.tokens] if len(surface.hop_s) else 0.0)
    host = surface.host_s + surface.host_request_s * batch.requests
    seconds = body + surface.sample_s[batch.sampled] + hops + host
    return float(seconds), float(joules + surface.sample_j[batch.sampled])


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(
    decodes=st.integers(0, 256),
    context=st.floats(0.0, 1.0),
    chunks=st.lists(st.tuples(st.floats(0.0, 0.9), st.integers(1, 700)), max_size=2),
    last=st.booleans(),
)
def test_the_surface_agrees_with_the_operators(
    case: str, decodes: int, context: float, chunks: list[tuple[float, int]], last: bool
) -> None:
    found, surface = built(case)
    longest, window = found.max_model_len, found.model.attended_tokens
    batch = decode_batch(min(decodes, 256 - len(chunks)), max(1, int(context * longest)), window)
    starts = [(int(share * (longest - length)), length) for share, length in chunks]
    batch += prefill_batch(starts, window, last)
    if not batch.tokens:
        return
    seconds, joules = evaluated(surface, batch, longest)
    assert seconds == pytest.approx(price_step(found, batch).total_s, rel=0.01)
    envelope_w = found.accelerator.max_w - found.accelerator.idle_w
    assert joules <= envelope_w * found.plan.accelerators_per_replica * seconds * (1 + 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_tables_are_finite_and_start_at_nothing(case: str) -> None:
    _, surface = built(case)
    for table in (surface.token_s, surface.sample_s, surface.decode_s, surface.prefill_s, surface.hop_s):
        assert np.isfinite(table).all()
        assert (table >= 0).all()
    assert surface.token_s[0] == surface.sample_s[0] == 0.0
    assert surface.stage_share.sum() == pytest.approx(1.0)
