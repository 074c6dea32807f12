"""Predict set-ups: deployments from names, each predicted once, on all processors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from windtunnel.cost.device import device_of
from windtunnel.cost.memory import memory_need
from windtunnel.errors import WindtunnelError
from windtunnel.evidence.batches import static_batch, steady_batch
from windtunnel.evidence.inferencex_servers import servers
from windtunnel.evidence.scenario import Outcome, Scenario
from windtunnel.evidence.serving_run import simulated
from windtunnel.evidence.steps import step_pricer
from windtunnel.specs.assemble import deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.speculation import SpeculativeSpec

CHUNK = 24
"""Set-ups handed to a worker at a time."""


def predict(scenario: Scenario, engine: EngineSpec | None = None) -> Outcome:
    """The outcome of one set-up; a set-up that cannot run says why.

    Args:
        scenario: the set-up.
        engine: in place of the scenario's preset (the fits try constants).
    """
    try:
        what = deployment_of(scenario, engine)
        values = _values(scenario, what)
    except WindtunnelError as error:
        return Outcome({}, why_not=str(error).splitlines()[0])
    if isinstance(values, str):
        return Outcome({}, why_not=values)
    return Outcome(values, device_of(what.accelerator).provenance)


def deployment_of(scenario: Scenario, engine: EngineSpec | None = None) -> DeploymentSpec:
    """The deployment of a set-up, its context limit set to the request's length."""
    spec = engine or resolve("engines", scenario.engine)
    longest = max(scenario.input_tokens + scenario.output_tokens, 16)
    budget = scenario.max_num_batched_tokens or spec.max_num_batched_tokens
    changed: dict[str, object] = {
        "max_model_len": longest,
        "max_num_seqs": scenario.max_num_seqs or spec.max_num_seqs,
        # Without chunks a step must hold the longest prompt.
        "max_num_batched_tokens": budget if spec.enable_chunked_prefill else max(longest, budget),
    }
    if scenario.drafts:
        changed["speculative"] = SpeculativeSpec(
            method="mtp", draft_tokens=scenario.drafts, acceptance=servers().acceptance
        )
        # Drafts are simulated with vLLM's composition of steps; SGLang's keeps prompts to steps of their own. It
        # composes steps with drafts ahead only where SGLANG_ENABLE_SPEC_V2 is set, as in no script of the harness.
        changed["scheduler"] = "vllm"
        changed["overlap_scheduling"] = spec.overlap_scheduling and spec.scheduler != "sglang"
    if scenario.graph_tokens:
        changed["graph_tokens"] = scenario.graph_tokens
    if scenario.cache_share:
        changed["cache_share_of_free"] = scenario.cache_share
    # Results of a model beyond its published context exist; how it does there is not the question here.
    model = _model(scenario.model, scenario.dense_dtype, scenario.plan.weight_dtype, longest)
    return deployment(
        model,
        scenario.accelerator,
        plan=scenario.plan,
        engine=spec.model_copy(update=changed),
        node=scenario.node or None,
    )


@lru_cache(maxsize=512)
def _model(name: str, dense_dtype: str, weight_dtype: str, longest: int) -> ModelSpec:
    model: ModelSpec = resolve("models", name)
    changed: dict[str, object] = {}
    if dense_dtype and dense_dtype != weight_dtype:
        changed |= {"dtype": weight_dtype, "dense_dtype": dense_dtype}
    if longest > model.max_context_tokens:
        changed["max_context_tokens"] = longest
    return model.model_copy(update=changed) if changed else model


def _values(scenario: Scenario, what: DeploymentSpec) -> dict[str, float] | str:
    if scenario.mode in ("offline", "closed"):
        return simulated(scenario, what)
    need = memory_need(what, scenario.input_tokens + scenario.output_tokens)
    if need.weight_bytes > need.device_bytes:
        return need.reason()
    pricer = step_pricer(what, scenario.power_cap_w)
    if scenario.mode == "steady":
        return steady_batch(pricer, scenario.batch, scenario.input_tokens, scenario.output_tokens)
    return static_batch(pricer, int(scenario.batch), scenario.input_tokens, scenario.output_tokens)


def predict_all(
    scenarios: Iterable[Scenario], workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> dict[Scenario, Outcome]:
    """Outcomes of all distinct set-ups.

    Args:
        scenarios: in any order, repeated or not.
        workers: processes; 0 takes one per processor.
        progress: called with (done, all).
    """
    distinct = sorted(dict.fromkeys(scenarios), key=lambda one: (repr(one.what), one.mode, one.batch))
    chunks = [distinct[i : i + CHUNK] for i in range(0, len(distinct), CHUNK)]
    count = min(workers or os.cpu_count() or 1, len(chunks))
    found: dict[Scenario, Outcome] = {}

    def note(results: Sequence[tuple[Scenario, Outcome]]) -> None:
        found.update(results)
        if progress is not None:
            progress(len(found), len(distinct))

    if count <= 1:
        for chunk in chunks:
            note(predict_chunk(chunk))
        return found
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # Spawned rather than forked: the parent may hold threads (progress, numba) that a fork would break.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(predict_chunk, chunk) for chunk in chunks]):
            note(future.result())
    return found


def predict_chunk(scenarios: Sequence[Scenario]) -> list[tuple[Scenario, Outcome]]:
    """Set-ups with their outcomes; a worker's task."""
    return [(scenario, predict(scenario)) for scenario in scenarios]
