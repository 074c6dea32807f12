"""The figures of one simulation: latency, throughput, goodput, utilisation, energy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from windtunnel.metrics.adapters import adapter_figures
from windtunnel.metrics.goodput import attainment
from windtunnel.metrics.latency import latency_statistics
from windtunnel.metrics.speculation import speculation_figures
from windtunnel.metrics.steady import bounds_waiting, kept_up
from windtunnel.serving.result import Simulation
from windtunnel.specs.slo import SloSpec, Target


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a deployment did with a workload.

    Attributes:
        requests, finished, rejected: how many came, finished, and could never fit.
        duration_s: from zero to the last event.
        latency_s: seconds by metric and statistic, `latency_s["ttft"]["p99"]`.
        attainment: share of requests that meet every limit read per request; nan without targets.
        request_throughput_per_s, output_tokens_per_s, total_tokens_per_s: over the duration.
        goodput_per_s: requests per second that meet every limit; nan without targets.
        busy_share: share of the duration in which a replica works, mean over replicas.
        mean_batch_tokens: tokens per step.
        peak_kv_share: most KV blocks in use over all blocks, worst replica.
        preemptions: evictions of running requests.
        prefix_hit_share: share of looked-up prompt tokens found in the prefix cache.
        joules: energy of all accelerators over the duration.
        joules_per_output_token, mean_w: the same per output token and per second.
        kept_up: whether queues did not grow through the run.
        speculation: with speculative decoding, see `speculation_figures`; None without.
        adapters: with LoRA adapters, see `adapter_figures`; None without.
    """

    requests: int
    finished: int
    rejected: int
    duration_s: float
    latency_s: Mapping[str, Mapping[str, float]]
    attainment: float
    request_throughput_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    goodput_per_s: float
    busy_share: float
    mean_batch_tokens: float
    peak_kv_share: float
    preemptions: int
    prefix_hit_share: float
    joules: float
    joules_per_output_token: float
    mean_w: float
    kept_up: bool
    speculation: Mapping[str, float] | None = None
    adapters: Mapping[str, float] | None = None

    def value(self, name: str) -> float:
        """A figure by name: a field such as `mean_w`, or a latency in seconds such as `ttft_p99`.

        Raises:
            KeyError: no such figure.
        """
        metric, _, statistic = name.partition("_")
        if metric in self.latency_s:
            return self.latency_s[metric][statistic]
        for figures in (self.speculation, self.adapters):
            if figures is not None and name in figures:
                return figures[name]
        if name not in self.__slots__ or name in ("latency_s", "speculation", "adapters"):
            raise KeyError(name)
        return float(getattr(self, name))

    def value_s(self, target: Target) -> float:
        """The statistic that a target is about, in seconds; nan when no request has it."""
        return self.latency_s[target.metric][target.statistic]

    def meets(self, slo: SloSpec) -> bool:
        """Whether every request was served and every target holds.

        Where the targets do not bound how long requests wait (TPOT alone, a median), the deployment must
        have kept up with the traffic besides.
        """
        return self.finished == self.requests and not self.violations(slo) and (self.kept_up or bounds_waiting(slo))

    def violations(self, slo: SloSpec) -> tuple[Target, ...]:
        """The targets that do not hold. A target on what no request has (TPOT of single tokens) holds."""
        if slo.attainment:
            return slo.targets if self.attainment < slo.attainment else ()
        return tuple(target for target in slo.targets if self.value_s(target) >= target.limit_s)

    def tightness(self, slo: SloSpec) -> float:
        """How near the nearest target is: the largest value over its limit (above 1 when missed)."""
        if slo.attainment:
            return slo.attainment / max(self.attainment, 1e-9)
        near = (self.value_s(target) / target.limit_s for target in slo.targets)
        return max((value for value in near if not math.isnan(value)), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


def metrics_of(simulation: Simulation, slo: SloSpec | None = None, static_w: float = 0.0) -> Metrics:
    """The metrics of a simulation.

    Args:
        simulation: the run.
        slo: targets for attainment and goodput.
        static_w: power that each replica's accelerators draw at all times, watts.
    """
    finished = simulation.finished
    duration_s = max(simulation.makespan_s, 1e-12)
    output = int(simulation.output_tokens.sum())
    prompt = int(simulation.workload.prompt_tokens[finished].sum())
    replicas = len(simulation.busy_s)
    joules = float(simulation.dynamic_j.sum()) + static_w * replicas * simulation.makespan_s
    share = attainment(simulation, slo) if slo is not None and slo.targets else float("nan")
    usable = max(simulation.settings.num_blocks - 1, 1)
    return Metrics(
        requests=len(simulation),
        finished=int(finished.sum()),
        rejected=int(simulation.rejected.sum()),
        duration_s=simulation.makespan_s,
        latency_s=latency_statistics(simulation),
        attainment=share,
        request_throughput_per_s=float(finished.sum()) / duration_s,
        output_tokens_per_s=output / duration_s,
        total_tokens_per_s=(output + prompt) / duration_s,
        goodput_per_s=share * len(simulation) / duration_s,
        busy_share=float(np.mean(simulation.busy_s)) / duration_s,
        mean_batch_tokens=float(simulation.tokens.sum()) / max(int(simulation.steps.sum()), 1),
        peak_kv_share=float(simulation.peak_blocks.max(initial=0)) / usable,
        preemptions=int(simulation.preemptions.sum()),
        prefix_hit_share=simulation.prefix_hits / simulation.prefix_queries if simulation.prefix_queries else 0.0,
        joules=joules,
        joules_per_output_token=joules / output if output else float("nan"),
        mean_w=joules / duration_s,
        kept_up=kept_up(simulation),
        speculation=speculation_figures(simulation) if simulation.settings.drafting is not None else None,
        adapters=adapter_figures(simulation) if simulation.settings.lora is not None else None,
    )
