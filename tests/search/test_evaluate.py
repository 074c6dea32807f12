"""What a deployment's scheduler is set to."""

from __future__ import annotations

from typing import Any

from windtunnel.cost.memory import memory_need
from windtunnel.search.evaluate import settings_of
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.speculation import SpeculativeSpec


def test_which_engines_compose_ahead() -> None:
    def ahead(name: str, accelerator: str = "h100-sxm", plan: PlanSpec | None = None, **changed: Any) -> bool:
        engine = resolve("engines", name).model_copy(update={"max_model_len": 2048, **changed})
        found = deployment("llama-3.1-8b", accelerator, engine=engine, plan=plan or PlanSpec())
        return settings_of(found, memory_need(found)).overlap_scheduling

    for name in ("vllm", "vllm-0.11", "vllm-server", "vllm-server-0.11", "sglang", "tensorrt-llm-server"):
        assert ahead(name), name
    for name in ("vllm-0.2", "vllm-0.6", "vllm-rocm", "tensorrt-llm-0.13", "ideal"):
        assert not ahead(name), name
    assert not ahead("vllm", "generic-cpu")
    assert not ahead("vllm", plan=PlanSpec(pipeline_parallel=2))
    assert not ahead("vllm", overlap_scheduling=False)
    assert not ahead("vllm", speculative=SpeculativeSpec(method="ngram", draft_tokens=2, acceptance=0.5))
