"""Run one deployment on a workload: memory, step surface, simulation, metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.device import device_of
from windtunnel.cost.memory import MemoryNeed, kv_bytes_per_token, memory_need
from windtunnel.cost.surface import StepSurface
from windtunnel.cost.uncertainty import engine_at, reach
from windtunnel.metrics.summary import Metrics, metrics_of
from windtunnel.serving.run import Policy, SchedulerSettings, Simulation, run
from windtunnel.serving.speculation import composes_ahead, drafting_from, may_compose_ahead
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.slo import SloSpec
from windtunnel.workload.table import AT_ARRIVAL, RequestTable

Floats = npt.NDArray[np.float64]

HOST = "cpu"
"""Architecture of accelerators that are the host's own processor."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A simulation and its metrics."""

    simulation: Simulation
    metrics: Metrics


def settings_of(
    deployment: DeploymentSpec, memory: MemoryNeed, surface: StepSurface | None = None
) -> SchedulerSettings:
    """The scheduler's settings of one replica, its KV blocks from the memory account.

    The surface says how many tokens are drafted at which load, where that adapts.
    """
    engine = deployment.engine
    lengths = surface.drafting.lengths if surface is not None and surface.drafting is not None else None
    block_bytes = memory.kv_bytes_per_token * engine.block_size
    settings = SchedulerSettings(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=max(engine.max_num_batched_tokens, engine.max_num_seqs),
        max_model_len=deployment.max_model_len,
        num_blocks=max(memory.kv_blocks, 2),
        block_size=engine.block_size,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        enable_prefix_caching=engine.enable_prefix_caching,
        policy=engine.policy,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        watermark=engine.watermark,
        scheduler=engine.scheduler,
        async_scheduling=(
            composes_ahead(engine)
            and engine.scheduler == "vllm"
            and deployment.plan.pipeline_parallel == 1
            and engine.lora is None
        ),
        overlap_scheduling=overlaps(deployment),
        drafting=drafting_from(engine.speculative, lengths) if engine.speculative is not None else None,
        lora=engine.lora,
        options=engine.scheduler_options,
        eviction=engine.eviction,
        host_blocks=int(engine.scheduler_options.swap_space_bytes / block_bytes),
        swap_block_s=block_bytes / deployment.accelerator.host_link_bytes_per_s,
    )
    return _with_windows(settings, deployment, memory) if engine.hybrid_kv_cache else settings


def overlaps(deployment: DeploymentSpec) -> bool:
    """Whether the engine composes the next step when one starts.

    Engines have loops of their own for pipeline stages, which compose as many steps as there are stages. On the host's
    own processor composing and computing take turns (vLLM 0.32, vllm/platforms/cpu.py).
    """
    engine = deployment.engine
    return (
        (engine.overlap_scheduling or engine.async_scheduling)
        and may_compose_ahead(engine.speculative)
        and deployment.plan.pipeline_parallel == 1
        and deployment.accelerator.architecture != HOST
    )


def _with_windows(settings: SchedulerSettings, deployment: DeploymentSpec, memory: MemoryNeed) -> SchedulerSettings:
    """The settings with a block table for every group of layers, where some layers keep a window only.

    Groups have as many layers as the rarer kind (vLLM 0.32, `get_kv_cache_groups`); what does not divide is padded.
    """
    model = deployment.model
    full = model.attention_layers - model.window_layers
    if not model.window_layers or deployment.plan.pipeline_parallel > 1:
        return settings
    layers = min(full, model.window_layers) or model.window_layers
    token_bytes = kv_bytes_per_token(model, deployment.plan) / model.attention_layers * layers
    block_bytes = token_bytes * settings.block_size
    return replace(
        settings,
        num_blocks=max(int(memory.kv_bytes / block_bytes), 2),
        host_blocks=int(settings.options.swap_space_bytes / block_bytes),
        swap_block_s=block_bytes / deployment.accelerator.host_link_bytes_per_s,
        window_groups=-(-model.window_layers // layers),
        full_groups=-(-full // layers),
        kv_window=model.window_tokens,
    )


def request_tokens(workload: RequestTable) -> float:
    """Length of a typical request at its end, prompt and output; windowed layers hold less of a longer one."""
    return float((workload.prompt_tokens + workload.output_tokens).mean()) if len(workload) else 0.0


def evaluate(
    deployment: DeploymentSpec,
    workload: RequestTable,
    slo: SloSpec,
    *,
    router: str = "least_outstanding",
    seed: int = 0,
    surface: StepSurface | None = None,
    memory: MemoryNeed | None = None,
    sample_interval_s: float | None = None,
    record_steps: bool = False,
    max_waiting: int | None = None,
    at: float = 0.0,
    policy: Policy | None = None,
) -> Prediction:
    """Serve a workload on a deployment, replicas and router included.

    Args:
        deployment: what runs.
        workload: the requests.
        slo: targets for attainment and goodput.
        router: routing policy between replicas.
        seed: of routers that draw.
        surface, memory: of one replica, when already known.
        sample_interval_s: keep the cluster's state at this interval.
        record_steps: keep every step.
        max_waiting: end the run as lost when more requests wait at one replica.
        policy: functions of the user's own in place of the engine's scheduler (and the router).
        at: from -1 to 1, where in their 80 % intervals all costs lie (see `cost.uncertainty`); 0 is the prediction.
    """
    surface = surface or step_surface(deployment, at=at)
    memory = memory or memory_need(deployment, request_tokens(workload))
    settings = settings_of(deployment, memory, surface)
    if settings.enable_prefix_caching and not workload.shares_prefixes:
        # Nothing can be shared, so the cache changes nothing but the time that simulating it takes.
        settings = replace(settings, enable_prefix_caching=False)
    frontend_s = _frontend_s(engine_at(deployment.hosted_engine, at), workload)
    simulation = run(
        workload if frontend_s is None else _at_scheduler(workload, frontend_s),
        surface,
        settings,
        replicas=deployment.plan.replicas,
        router=router,
        seed=seed,
        sample_interval_s=sample_interval_s,
        record_steps=record_steps,
        max_waiting=max_waiting,
        policy=policy,
    )
    if frontend_s is not None:
        simulation = replace(simulation, workload=workload, arrival_s=simulation.arrival_s - frontend_s)
    return Prediction(simulation, metrics_of(simulation, slo, surface.static_w))


def evaluate_ends(
    deployment: DeploymentSpec,
    workload: RequestTable,
    slo: SloSpec,
    *,
    router: str = "least_outstanding",
    seed: int = 0,
    memory: MemoryNeed | None = None,
    policy: Policy | None = None,
) -> tuple[Metrics, Metrics]:
    """The metrics when every cost lies at the low end of its 80 % interval, and when at the high end."""

    def end(at: float) -> Metrics:
        return evaluate(
            deployment, workload, slo, router=router, seed=seed, memory=memory, at=at, policy=policy
        ).metrics

    far = reach(device_of(deployment.accelerator))
    return end(-far), end(far)


def _frontend_s(engine: EngineSpec, workload: RequestTable) -> Floats | None:
    """Seconds from each request's arrival until the scheduler sees it, or None when it does at once.

    HTTP and hand-over hold up nobody else; prompts are turned into tokens one after the other:

        done_i = max(arrival_i, done_(i-1)) + tokens_i
    """
    if not (engine.frontend_s or engine.frontend_token_s):
        return None
    tokens_s = engine.frontend_token_s * workload.prompt_tokens
    until = np.cumsum(tokens_s)
    known = workload.after == AT_ARRIVAL
    begins_s = np.maximum.accumulate(np.where(known, workload.arrival_s - (until - tokens_s), -np.inf))
    with np.errstate(invalid="ignore"):
        queued_s = np.where(known, begins_s + until - workload.arrival_s, tokens_s)
    return np.asarray(engine.frontend_s + queued_s)


def _at_scheduler(workload: RequestTable, frontend_s: Floats) -> RequestTable:
    """The requests as they reach the scheduler, after HTTP and tokenisation; latencies count from before."""
    waits = workload.after != AT_ARRIVAL
    return replace(
        workload,
        arrival_s=np.maximum.accumulate(workload.arrival_s + frontend_s),
        delay_s=np.where(waits, workload.delay_s + frontend_s, workload.delay_s),
    )
