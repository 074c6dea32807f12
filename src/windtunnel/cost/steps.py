"""The price of one step of a replica, operator by operator.

    stage s takes   share[s] * body + (head on the last) + (hop into it, unless the first)
    the step takes  host + the sum over stages

where body is everything that layers do, share[s] the stage's share of the layers, and host the
engine's time that nothing hides. Operators of a rank run one after the other: overlap of
communication with computation is not assumed. Captured graphs pad decode batches to captured sizes;
smaller steps are padded up to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from windtunnel.cost.depth import at_depth
from windtunnel.cost.energy import Energy, energy_of, joules_of
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.padding import padded_tokens
from windtunnel.cost.price import Cost, price, pricing_of
from windtunnel.cost.uncertainty import engine_at
from windtunnel.operators.batch import Batch
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.expand import expand, token_operators
from windtunnel.operators.lora import adapter_operators, further_adapters
from windtunnel.operators.moe import Experts
from windtunnel.operators.operator import Operator
from windtunnel.operators.shard import stage_layers
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec, Fusion
from windtunnel.specs.model import ModelSpec

BODY = ("tokens", "decode", "decode_window", "prefill")
"""Parts of a step that layers execute."""

EXPERT_KERNELS = 6
"""Kernels of a routed MLP: sorting the tokens, two grouped products, activation, and the weighted sum."""


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """An operator with its price; totals are over the executions of a forward pass."""

    operator: Operator
    cost: Cost
    joules: float

    @property
    def seconds(self) -> float:
        """Seconds over all executions."""
        return self.operator.count * self.cost.seconds

    @property
    def limit_s(self) -> float:
        """Speed of light over all executions."""
        return self.operator.count * self.cost.limit_s


@dataclass(frozen=True, slots=True)
class StepCost:
    """The price of a step.

    Attributes:
        operators: rows for `explain`; their seconds and `launch_wait_s` add up to `device_s`.
        stage_s: seconds on each pipeline stage, transfers into it included.
        launch_wait_s: time that the device waits for kernels to be launched where no graph is replayed,
            and that it spends on the step outside the model.
        host_s: engine overhead that nothing hides.
        joules: dynamic energy of all the replica's accelerators.
        static_w: their idle power.
        source: where most of the operators' seconds come from.
    """

    operators: tuple[OperatorCost, ...]
    stage_s: tuple[float, ...]
    launch_wait_s: float
    host_s: float
    joules: float
    static_w: float
    source: str

    @property
    def device_s(self) -> float:
        """Seconds through all stages, without the host."""
        return sum(self.stage_s)

    @property
    def total_s(self) -> float:
        """Seconds from the step's start to its sampled tokens."""
        return self.device_s + self.host_s

    @property
    def limit_s(self) -> float:
        """Speed of light of the step through all stages: no overheads, full rates."""
        return sum(row.limit_s for row in self.operators)

    @property
    def energy_j(self) -> float:
        """Dynamic and idle energy of the step."""
        return self.joules + self.static_w * self.total_s


def price_step(
    deployment: DeploymentSpec, batch: Batch, kernels: MeasuredKernels | None = None, at: float = 0.0
) -> StepCost:
    """The price of a step of one replica.

    Args:
        deployment: what runs.
        batch: the sums of what the step schedules.
        kernels: measured kernels of the device, asked before the cost model.
        at: from -1 to 1, where in their 80 % intervals all costs lie; 0 is the prediction itself.
    """
    device, links = pricing_of(deployment, kernels, at)
    deployment = deployment.model_copy(update={"engine": engine_at(deployment.hosted_engine, at)})
    plan, engine = deployment.plan, deployment.engine
    energy = energy_of(device, links.tensor)
    rows = tuple(
        OperatorCost(operator, price(operator, device, links, batch.prefill_tokens), float(joules_of(operator, energy)))
        for operator in _executed(deployment, batch)
    )
    wait = _launch_wait_s(deployment, rows, batch.tokens)
    body = sum(row.seconds for row in rows if row.operator.part in BODY) + wait
    head = sum(row.seconds for row in rows if row.operator.part == "sampled")
    hops = plan.pipeline_parallel - 1
    hop = sum(row.seconds for row in rows if row.operator.part == "hop") / hops if hops else 0.0
    stages = [share * body + (hop if s else 0.0) for s, share in enumerate(stage_shares(deployment))]
    stages[-1] += head
    return StepCost(
        operators=rows,
        stage_s=tuple(stages),
        launch_wait_s=wait,
        host_s=engine.step_host_s
        + engine.request_host_s * batch.requests
        + _host_left_s(deployment, batch, sum(stages)),
        joules=plan.ranks_per_stage * _rank_joules(rows, energy),
        static_w=plan.accelerators_per_replica * deployment.accelerator.idle_w,
        source=_source(rows, device.provenance),
    )


def _host_left_s(deployment: DeploymentSpec, batch: Batch, device_s: float) -> float:
    """What is left of the host's overlapped work when the device is done (see `cost.overlap`)."""
    if batch.prefill_requests or deployment.plan.pipeline_parallel > 1:
        return 0.0
    return max(0.0, deployment.engine.overlapped_request_s * batch.requests - device_s)


def _source(rows: tuple[OperatorCost, ...], provenance: str) -> str:
    """Where most of the operators' time comes from: measured tables, or the device's constants."""
    measured = sum(row.seconds for row in rows if row.cost.source == "measured")
    return "measured" if measured > 0.5 * sum(row.seconds for row in rows) else provenance


def _executed(deployment: DeploymentSpec, batch: Batch) -> list[Operator]:
    """The batch's operators, those over tokens at the size of the graph that is replayed."""
    model, plan = deployment.model, deployment.plan
    padded = padded_tokens(batch.tokens, deployment.engine)
    engine = deployment.engine
    operators = expand(model, plan, batch)
    if padded != batch.tokens:
        operators = [*token_operators(model, plan, padded), *(one for one in operators if one.part != "tokens")]
    if engine.lora is not None and batch.tokens:
        many = min(engine.lora.max_loras, max(batch.requests, 1))
        operators += adapter_operators(model, plan, engine.lora, float(batch.tokens))
        operators.append(further_adapters(model, plan, engine.lora, float(many - 1)))
    return at_depth(operators, batch, engine.depth, model.layers)


def stage_shares(deployment: DeploymentSpec) -> tuple[float, ...]:
    """Share of the layers on each pipeline stage; layers are taken to be alike."""
    layers = deployment.model.layers
    return tuple(held / layers for held in stage_layers(layers, deployment.plan.pipeline_parallel))


def launches_of(operators: Iterable[Operator], fused: tuple[Fusion, ...]) -> float:
    """Kernels that the operators launch in a forward pass of an engine that fuses so much (`KernelFactors.fused`)."""
    return sum(operator.count * _kernels(operator, fused) for operator in operators)


def eager_s(model: ModelSpec, engine: EngineSpec, launches: float, architecture: str) -> float:
    """Host time of a step that replays no captured graph: its kernels, and small operations of some layers."""
    latent_s = model.layers * engine.eager_latent_s if model.latent else 0.0
    experts_s = model.moe_layers * engine.eager_experts_s if architecture in engine.unfused_experts else 0.0
    return launches * engine.eager_launch_s + latent_s + experts_s


def _kernels(operator: Operator, fused: tuple[Fusion, ...]) -> int:
    if isinstance(operator, Elementwise):
        return operator.launched(fused)
    return EXPERT_KERNELS if isinstance(operator, Experts) else 1


def _launch_wait_s(deployment: DeploymentSpec, rows: tuple[OperatorCost, ...], tokens: int) -> float:
    """How much longer launching the tokens' kernels takes than running them, where no graph is replayed."""
    engine = deployment.engine
    mine = [row for row in rows if row.operator.part == "tokens"]
    launches = launches_of((row.operator for row in mine), engine.kernels.fused)
    prefill = any(row.operator.part == "prefill" for row in rows)
    wait = engine.step_device_s + (engine.prefill_step_s + launches * engine.prefill_launch_s if prefill else 0.0)
    host = 0.0 if engine.graphs else launches * engine.launch_s
    if tokens > engine.graph_tokens:
        host = max(host, eager_s(deployment.model, engine, launches, deployment.accelerator.architecture))
    return wait + max(0.0, host - sum(row.seconds for row in mine))


def _rank_joules(rows: tuple[OperatorCost, ...], energy: Energy) -> float:
    """Joules of the operators of one rank per stage, each part of the step cut at what the device can draw."""
    total = 0.0
    for part in (*BODY, "sampled", "hop"):
        mine = [row for row in rows if row.operator.part == part]
        joules = sum(row.operator.count * row.joules for row in mine)
        seconds = sum(row.seconds for row in mine)
        total += min(joules + energy.active_w * seconds, energy.dynamic_w * seconds)
    return total
