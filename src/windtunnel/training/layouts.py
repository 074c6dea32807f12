"""Layouts of a job: one, or many at once as arrays of degrees, and the seconds of their parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.cost.device import Device, device_of
from windtunnel.cost.network import Group, Network, network_of
from windtunnel.cost.training import (
    Cluster,
    EngineHabits,
    PhaseSeconds,
    phase_seconds,
    training_constants,
)
from windtunnel.operators.operator import Number
from windtunnel.operators.training import LayerPhases, Phase
from windtunnel.operators.training_ends import ahead_phases, embedding_phases, head_phases
from windtunnel.operators.training_layer import Microbatch, layer_phases
from windtunnel.specs.training import TrainingJob, TrainingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """A job with its degrees, numbers or arrays; flags and formats are the job's plan's."""

    job: TrainingJob
    gpus: Number
    tp: Number
    pp: Number
    cp: Number
    ep: Number
    etp: Number
    virtual: Number
    micro_batch: Number

    @property
    def plan(self) -> TrainingPlan:
        """The plan whose flags hold for all."""
        return self.job.plan

    @property
    def data_parallel(self) -> Number:
        """DP degree."""
        return self.gpus / (self.tp * self.cp * self.pp)

    @property
    def microbatches(self) -> Number:
        """Microbatches per step and data-parallel rank."""
        return self.job.global_batch_sequences / (self.data_parallel * self.micro_batch)

    @property
    def weight_ranks(self) -> Number:
        """Ranks that hold the same dense weights: DP x CP."""
        return self.data_parallel * self.cp

    @property
    def expert_ranks(self) -> Number:
        """Ranks that hold the same experts."""
        return self.gpus / (self.pp * self.ep * self.etp)

    @property
    def engine(self) -> EngineHabits:
        """The engine's habits."""
        return training_constants().engines[self.job.engine]

    def device(self) -> Device:
        """The device."""
        return device_of(self.job.accelerator)

    def network(self) -> Network:
        """The network."""
        return network_of(self.job)

    def cluster(self) -> Cluster:
        """What prices a layer."""
        return Cluster(self.device(), self.network(), self.tp, self.cp, self.ep, self.etp)

    def microbatch(self) -> Microbatch:
        """The work of a microbatch on one rank."""
        return Microbatch(
            sequences=self.micro_batch,
            seq_len=float(self.job.seq_len),
            tp=self.tp,
            cp=self.cp,
            ep=self.ep,
            etp=self.etp,
            plan=self.plan,
            async_backward=self.engine.async_tensor_backward,
            dedupe=self._node_share() / self._rank_share(),
            sent_share=self._rank_share(),
            early_stop=self.engine.early_stop,
            every_second=self.plan.recompute == "selective" and checkpoints_by_operator(self.job),
        )

    def _node_share(self) -> Number:
        """Copies of a token that leave for other nodes, over its experts there, when a node is sent one copy."""
        nodes = self.network().nodes(Group(self.ep, self.etp))
        return self._once(nodes) if self.plan.moe_dedupe or self.plan.moe_fused_dispatch else 1.0

    def _rank_share(self) -> Number:
        """Copies of a token that are sent, over its experts, when a rank is sent one copy."""
        return self._once(self.ep) if self.plan.moe_fused_dispatch else 1.0

    def _once(self, places: Number) -> Number:
        """Different places among the experts of a token, over its experts.

        Of k experts drawn evenly over G places, G (1 - (1 - 1 / G)^k) are expected to be different.
        """
        moe = self.job.model.moe
        if moe is None:
            return 1.0
        top, count = float(moe.experts_per_token), np.asarray(places, dtype=np.float64)
        return np.where(count > 1, count / top * (1.0 - (1.0 - 1.0 / count) ** top), 1.0)


def checkpoints_by_operator(job: TrainingJob) -> bool:
    """Whether selective recomputation goes by operator: torchtitan, on layers of products and attention alone."""
    model = job.model
    return job.engine == "torchtitan" and model.gated_mlp and model.moe is None and model.latent is None


def layouts_of(job: TrainingJob) -> Layouts:
    """The one layout of a job."""
    plan = job.plan
    return Layouts(
        job=job,
        gpus=float(job.gpus),
        tp=float(plan.tensor_parallel),
        pp=float(plan.pipeline_parallel),
        cp=float(plan.context_parallel),
        ep=float(plan.expert_parallel),
        etp=float(plan.expert_tensor),
        virtual=float(plan.virtual_stages),
        micro_batch=float(plan.micro_batch),
    )


@dataclass(slots=True)
class PartSeconds:
    """Seconds of a part of the model for one microbatch: forward, input and weight gradients, recomputation."""

    forward: PhaseSeconds
    input_gradient: PhaseSeconds
    weight_gradient: PhaseSeconds
    recompute: PhaseSeconds

    def __add__(self, other: PartSeconds) -> PartSeconds:
        return PartSeconds(
            self.forward + other.forward,
            self.input_gradient + other.input_gradient,
            self.weight_gradient + other.weight_gradient,
            self.recompute + other.recompute,
        )

    def __mul__(self, times: Number) -> PartSeconds:
        return PartSeconds(
            self.forward * times, self.input_gradient * times, self.weight_gradient * times, self.recompute * times
        )

    @property
    def forward_s(self) -> Number:
        """The forward pass."""
        return self.forward.total

    @property
    def backward_s(self) -> Number:
        """The backward pass, recomputation included."""
        return self.input_gradient.total + self.weight_gradient.total + self.recompute.total


def nothing() -> PartSeconds:
    """A part that takes no time."""
    return PartSeconds(PhaseSeconds(), PhaseSeconds(), PhaseSeconds(), PhaseSeconds())


@dataclass(slots=True)
class ModelSeconds:
    """Seconds of a microbatch's parts on one rank: a dense layer, a routed one, embedding, head,
    and what stands before a layer that predicts further ahead."""

    dense: PartSeconds
    routed: PartSeconds
    embedding: PartSeconds
    head: PartSeconds
    ahead: PartSeconds


def model_seconds(layouts: Layouts) -> ModelSeconds:
    """Seconds of the model's parts; products of all of them are priced together."""
    model, micro = layouts.job.model, layouts.microbatch()
    parts = [
        layer_phases(model, micro, routed=False) if model.dense_layers else LayerPhases(),
        layer_phases(model, micro, routed=True) if model.moe_layers else LayerPhases(),
        embedding_phases(model, micro),
        head_phases(model, micro),
        ahead_phases(model, micro) if layouts.plan.mtp_layers else LayerPhases(),
    ]
    flat: list[Phase] = []
    for part in parts:
        flat += [part.forward, part.input_gradient, part.weight_gradient, part.recompute]
    priced = phase_seconds(flat, layouts.cluster())
    if not layouts.plan.cuda_graphs:
        priced = [_launched(one, layouts.engine) for one in priced]
    grouped = [PartSeconds(*priced[i : i + 4]) for i in range(0, len(priced), 4)]
    return ModelSeconds(*grouped)


def _launched(one: PhaseSeconds, engine: EngineHabits) -> PhaseSeconds:
    """A phase takes at least as long as the host takes to launch its kernels; what it waits for meanwhile counts."""
    host = one.kernels * engine.launch_s + one.experts * engine.expert_launch_s
    one.compute = np.maximum(one.compute, host - (one.tensor + one.context + one.expert))
    return one
