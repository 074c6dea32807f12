"""Replay of a real engine run: the same requests at the same times, and how far every latency is off."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.build_surface import step_surface
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.measured.read import read_kernels
from windtunnel.cost.memory import memory_need
from windtunnel.errors import InfeasibleError
from windtunnel.evidence.runs_deploy import deployment_of_run
from windtunnel.evidence.runs_groups import prompts_on_one_rank
from windtunnel.evidence.runs_read import EngineRun, read_run
from windtunnel.search.evaluate import settings_of
from windtunnel.serving.result import Simulation
from windtunnel.serving.run import run
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.workload.table import RequestTable

Floats = npt.NDArray[np.float64]

SPREAD_POINTS, SPREAD_QUANTILES = 16, 512
"""How finely the contexts of a run are sampled."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run beside its replay.

    Attributes:
        run: what was recorded.
        deployment: what it was taken to be.
        replay: the simulation.
        measured, predicted: seconds by metric, such as `ttft_mean_s`.
        kv_blocks: of one scheduler's cache, as predicted.
        source: what priced the kernels.
        notes: what was assumed.
    """

    run: EngineRun
    deployment: DeploymentSpec
    replay: Simulation
    measured: dict[str, float]
    predicted: dict[str, float]
    kv_blocks: int
    source: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The record that `--json` writes."""
        metrics = {
            name: {"measured": value, "predicted": self.predicted[name], "error": self.predicted[name] / value - 1.0}
            for name, value in self.measured.items()
        }
        return {
            "requests": len(self.run.workload),
            "model": self.run.model,
            "engine": self.deployment.engine.name,
            "accelerator": self.deployment.accelerator.name,
            "plan": self.deployment.plan.label(),
            "kernels": self.source,
            "metrics": metrics,
            "kv_blocks": {"measured": self.run.kv_blocks or None, "predicted": self.kv_blocks},
            "notes": list(self.notes),
        }


def validate_run(folder: Path | str, kernels: Path | str | None = None) -> RunReport:
    """Replay a run and compare its latencies.

    Args:
        folder: the run's (see `runs_read`).
        kernels: a folder of measured kernels of its device; without one the catalogue's constants price it.

    Raises:
        TraceError: the folder or the kernels cannot be read, or are of another device.
        InfeasibleError: the model does not fit, or the replay turns requests away.
    """
    recorded = read_run(Path(folder))
    deployment, notes = deployment_of_run(recorded)
    measured = read_kernels(Path(kernels), deployment.accelerator) if kernels is not None else None
    blocks = _predicted_blocks(deployment)
    replay = _replay(recorded, deployment, measured, recorded.kv_blocks * _schedulers(deployment) or blocks)
    return RunReport(
        run=recorded,
        deployment=deployment,
        replay=replay,
        measured=latencies(recorded.workload.arrival_s, recorded.first_token_s, recorded.finish_s, replay),
        predicted=latencies(replay.arrival_s, replay.first_token_s, replay.finish_s, replay),
        kv_blocks=blocks // _schedulers(deployment),
        source=measured.title if measured else f"catalogue, {_provenance(deployment)}",
        notes=(*recorded.notes, *notes, *(measured.notes if measured else ())),
    )


def _schedulers(deployment: DeploymentSpec) -> int:
    """Schedulers whose caches the replay keeps as one: those of the attention groups that share experts."""
    return deployment.plan.attention_data_parallel


def _provenance(deployment: DeploymentSpec) -> str:
    from windtunnel.cost.device import device_of

    return device_of(deployment.accelerator).provenance


def _predicted_blocks(deployment: DeploymentSpec) -> int:
    need = memory_need(deployment)
    if not need.loads:
        raise InfeasibleError(f"the run's deployment {need.reason()}")
    return need.kv_blocks


def _replay(
    recorded: EngineRun, deployment: DeploymentSpec, kernels: MeasuredKernels | None, blocks: int
) -> Simulation:
    settings = replace(settings_of(deployment, memory_need(deployment)), num_blocks=blocks)
    caching = settings.enable_prefix_caching and recorded.workload.shares_prefixes
    settings = replace(settings, enable_prefix_caching=caching)
    surface = step_surface(deployment, kernels, context_spread(recorded.workload))
    surface = prompts_on_one_rank(surface, deployment, kernels)
    replay = run(recorded.workload, surface, settings, replicas=deployment.plan.replicas, router="least_outstanding")
    if replay.rejected.any() or not replay.finished.all():
        raise InfeasibleError("the replay turned requests away that the engine served")
    return replay


def context_spread(workload: RequestTable) -> tuple[float, ...]:
    """Contexts of decoding requests relative to their mean: every request at every token it generates."""
    shares = (np.arange(SPREAD_POINTS) + 0.5) / SPREAD_POINTS
    contexts = workload.prompt_tokens[:, None] + workload.output_tokens[:, None] * shares[None, :]
    weights = np.repeat(workload.output_tokens / SPREAD_POINTS, SPREAD_POINTS)
    order = np.argsort(contexts, axis=None, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    quantiles = contexts.ravel()[order][
        np.searchsorted(reached, (np.arange(SPREAD_QUANTILES) + 0.5) / SPREAD_QUANTILES)
    ]
    return tuple((quantiles / quantiles.mean()).tolist())


def latencies(arrival_s: Floats, first_token_s: Floats, finish_s: Floats, replay: Simulation) -> dict[str, float]:
    """TTFT, TPOT and end-to-end latency: mean, median and upper percentiles, in seconds."""
    output = replay.workload.output_tokens
    several = output > 1
    columns = {
        "ttft": first_token_s - arrival_s,
        "tpot": (finish_s - first_token_s)[several] / (output[several] - 1),
        "e2e": finish_s - arrival_s,
    }
    found = {}
    for name, column in columns.items():
        if not len(column):
            continue
        found[f"{name}_mean_s"] = float(column.mean())
        for percent in (50, 90, 99):
            found[f"{name}_p{percent}_s"] = float(np.percentile(column, percent))
    return {name: value for name, value in found.items() if math.isfinite(value) and value > 0}
