"""Step times and energies of a deployment for arrays of batches, priced operator by operator.

The step surface tabulates every token count up to the engine's budget. A static batch may prefill
hundreds of thousands of tokens at once, and needs only a handful of distinct steps: those are
priced here directly, by the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windtunnel.cost.device import Device
from windtunnel.cost.energy import Energy, energy_of, joules_of
from windtunnel.cost.price import Links, pricing_of, seconds_of
from windtunnel.cost.steps import eager_s, launches_of
from windtunnel.operators.batch import causal_pairs, windowed_pairs
from windtunnel.operators.expand import (
    decode_operators,
    decode_window_operators,
    hop_operators,
    prefill_operators,
    sample_operators,
    token_operators,
)
from windtunnel.operators.operator import Number, Operator
from windtunnel.specs.deployment import DeploymentSpec

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds and joules of steps, arrays of one shape.

    Attributes:
        seconds: from the step's start to its tokens, through all pipeline stages, host included.
        joules: dynamic energy of all the replica's accelerators.
    """

    seconds: Floats
    joules: Floats


@dataclass(frozen=True, slots=True)
class StepPricer:
    """Prices steps of one deployment. A step visits the pipeline stages one after the other.

    Attributes:
        deployment, device, links: what runs where.
        power_cap_w: a limit per accelerator below the board's own; 0 for none.
        constants: energy constants in place of the catalogue's (the fit tries some).
    """

    deployment: DeploymentSpec
    device: Device
    links: Links
    power_cap_w: float = 0.0
    constants: Energy | None = None

    def decode(self, requests: float, contexts: npt.ArrayLike) -> Steps:
        """Steps in which `requests` requests decode, for each context length of an array."""
        context = np.atleast_1d(np.asarray(contexts, dtype=np.float64))
        attention = self._decoding(requests, context)
        graphs = self.deployment.engine.graphs
        return self._steps(requests, requests, requests, attention, context.shape, graphs=graphs)

    def prefill(self, requests: float, tokens: int, start: int = 0, last: bool = True) -> Steps:
        """One step in which `requests` requests compute `tokens` prompt tokens each after `start` cached ones."""
        attention = self._prompts(requests, tokens, start)
        sampled = requests if last else 0.0
        return self._steps(requests * tokens, sampled, requests, attention, (1,), graphs=False, prompts=1)

    def mixed(self, requests: float, contexts: npt.ArrayLike, prompts: float, tokens: int) -> Steps:
        """Steps in which `requests` requests decode beside `prompts` whole prompts, for each context length."""
        context = np.atleast_1d(np.asarray(contexts, dtype=np.float64))
        attention = self._decoding(requests, context) + self._prompts(prompts, tokens)
        all_tokens, together = requests + prompts * tokens, requests + prompts
        return self._steps(all_tokens, together, together, attention, context.shape, graphs=False, prompts=1)

    def _decoding(self, requests: float, context: Floats) -> list[Operator]:
        """Attention of requests that decode."""
        d = self.deployment
        window = d.model.attended_tokens
        windowed = np.minimum(context, window) if window else np.zeros_like(context)
        attention = decode_operators(d.model, d.plan, requests, requests * context)
        return attention + decode_window_operators(d.model, d.plan, requests, requests * windowed)

    def _prompts(self, requests: float, tokens: int, start: int = 0) -> list[Operator]:
        """Attention of prompts, or of their chunks after `start` cached tokens."""
        d = self.deployment
        window = d.model.attended_tokens
        pairs = causal_pairs(start, tokens)
        windowed = windowed_pairs(start, tokens, window) if window else 0
        return prefill_operators(
            d.model,
            d.plan,
            requests * tokens,
            requests * pairs,
            requests * windowed,
            requests * (start + tokens),
            requests,
            float(start + tokens),
            windowed / tokens,
        )

    def _steps(
        self,
        tokens: float,
        sampled: float,
        requests: float,
        attention: list[Operator],
        shape: tuple[int, ...],
        *,
        graphs: bool,
        prompts: int = 0,
    ) -> Steps:
        d = self.deployment
        engine = d.hosted_engine
        body = token_operators(d.model, d.plan, tokens)
        head = sample_operators(d.model, d.plan, sampled) if sampled else []
        hops = hop_operators(d.model, d.plan, tokens) if d.plan.pipeline_parallel > 1 else []
        device_s = self._sum(body + attention) + self._sum(head) + self._sum(hops)
        device_s = np.maximum(device_s, engine.overlapped_request_s * requests)
        if not graphs:
            fused = engine.kernels.fused
            launches = launches_of(body + attention + head, fused)
            device_s = np.maximum(device_s, launches * engine.launch_s)
            if tokens > engine.graph_tokens:
                device_s = np.maximum(device_s, eager_s(d.model, engine, launches, d.accelerator.architecture))
            device_s = device_s + prompts * launches_of(body, fused) * engine.prefill_launch_s
        ranks = d.plan.ranks_per_stage
        joules = ranks * self._joules(body + attention + head + hops)
        joules = joules + d.plan.accelerators_per_replica * self._energy.active_w * device_s
        host_s = engine.step_host_s + engine.request_host_s * requests
        seconds = self._stretched(np.broadcast_to(device_s, shape), joules, host_s) + host_s
        return Steps(seconds, np.minimum(np.broadcast_to(joules, shape), self._most_w * seconds))

    @property
    def _energy(self) -> Energy:
        return self.constants or energy_of(self.device, self.links.tensor)

    @property
    def _most_w(self) -> float:
        """Most dynamic watts of the replica's accelerators."""
        return self._above_idle_w(self.power_cap_w or self.deployment.accelerator.max_w)

    def _above_idle_w(self, limit_w: float) -> float:
        each = limit_w - self.deployment.accelerator.idle_w
        return self.deployment.plan.accelerators_per_replica * each

    def _stretched(self, seconds: Floats, joules: Floats, host_s: float) -> Floats:
        """Under a power cap clocks fall until the step's mean power fits.

        Power above idle falls with about the square of the clock near the board's limit, where voltage
        follows frequency: a step that would draw r times what is left takes sqrt(r) times as long.
        What the board's own limit takes off the clocks is in the kernels' measured speeds already.
        """
        if not self.power_cap_w:
            return np.array(seconds)
        drawn = np.minimum(joules, self._above_idle_w(self.deployment.accelerator.max_w) * seconds)
        over = drawn / (self._most_w * (seconds + host_s))
        return seconds * np.sqrt(np.maximum(over, 1.0))

    def _sum(self, operators: list[Operator]) -> Floats:
        total: Number = 0.0
        for operator in operators:
            total = total + operator.count * seconds_of(operator, self.device, self.links)
        return np.asarray(total, dtype=np.float64)

    def _joules(self, operators: list[Operator]) -> Floats:
        energy = self._energy
        total: Number = 0.0
        for operator in operators:
            total = total + operator.count * joules_of(operator, energy)
        return np.asarray(total, dtype=np.float64)


def step_pricer(deployment: DeploymentSpec, power_cap_w: float = 0.0) -> StepPricer:
    """The pricer of one replica of a deployment.

    Args:
        deployment: what runs.
        power_cap_w: a limit per accelerator below the board's own; 0 for none.
    """
    device, links = pricing_of(deployment)
    return StepPricer(deployment, device, links, power_cap_w)
