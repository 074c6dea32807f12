"""The numbers that memory depends on: a job's degrees, or those of many layouts at once.

Every formula of the memory account takes a `MemoryLayout`, whose degrees may be scalars (one job) or
arrays (a whole space of layouts with the same flags); both ways run the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import yaml
from pydantic import Field

from windtunnel.operators.operator import Number
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import DTYPE_BYTES_TRAINING, TrainingEngine, TrainingJob, TrainingPlan


class EngineMemory(Spec):
    """Habits of a training engine that cost or save memory; one entry of `catalogue/training_memory.yaml`."""

    vocab_multiple: int = Field(1, ge=1, description="vocabularies are padded to a multiple of this x TP")
    flat_gradients: bool = Field(description="one gradient buffer for the whole step, allocated once")
    sharded_master: bool = Field(description="under ZeRO-3 only the fp32 shard is kept, no 16-bit shard beside it")
    narrow_inputs: bool = Field(description="8-bit products keep their inputs in 8 bits rather than 16")
    narrow_weight_copies: bool = Field(
        False, description="narrow products keep narrow weights, in both orders, through the step"
    )
    placeholder_gradients: bool = Field(
        description="one unused gradient per shape of a layer's weights stays allocated"
    )
    gathered_layers: float = Field(ge=0, description="layers of gathered weights alive at once (ZeRO-3)")
    gathered_values: float = Field(0.0, ge=0, description="most gathered values alive at once; 0: no limit")
    reduced_layers: float = Field(ge=0, description="layers of unsharded gradients alive at once (ZeRO-2, 3)")
    bucket_values: float = Field(0.0, ge=0, description="values of a gradient bucket; 0: whole layers")
    pipeline_unsharded: bool = Field(
        False, description="with a pipeline, ZeRO-3 keeps gathered weights and unsharded gradients through the step"
    )
    pipeline_outputs: bool = Field(False, description="the last pipeline rank keeps the logits of the whole step")
    tensor_parallel_loss_fused: bool = Field(True, description="the loss is fused with tensor parallelism, too")
    pinned_gradients: bool = Field(
        False, description="offloaded gradients lie in one pinned host buffer, rounded up to a power of two"
    )
    loss_saved_bytes: float = Field(ge=0, description="bytes per logit kept from a fused loss to its gradient")
    loss_working_bytes: float = Field(ge=0, description="bytes per logit more while a fused loss goes backward")
    plain_loss_working_bytes: float = Field(
        ge=0, description="the same of a loss that is not fused, beside fp32 logits"
    )
    sources: tuple[Source, ...] = ()


class RuntimeMemory(Spec):
    """What the process takes beside tensors; `catalogue/training_memory.yaml`."""

    context_bytes: float = Field(ge=0, description="driver context and loaded kernels")
    workspace_bytes: float = Field(ge=0, description="matrix library workspaces, allocated as tensors")
    communicator_bytes: float = Field(ge=0, description="buffers of one communicator of the collective library")
    reserved_share: float = Field(ge=1, description="memory the caching allocator holds, over the peak of live tensors")
    sources: tuple[Source, ...] = ()


def widest(*sizes: Number) -> Number:
    """The largest of some sizes, layout by layout."""
    found = sizes[0]
    for size in sizes[1:]:
        found = np.maximum(found, size)
    return found


@lru_cache(maxsize=1)
def _file() -> dict[str, object]:
    data = yaml.safe_load(catalogue_folder("training_memory.yaml").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


@lru_cache(maxsize=8)
def engine_memory(engine: TrainingEngine) -> EngineMemory:
    """An engine's habits."""
    engines = _file()["engines"]
    assert isinstance(engines, dict)
    return build(EngineMemory, engines[engine], "catalogue/training_memory.yaml")


class OffloadFacts(Spec):
    """What offloaded updates reach; `catalogue/training_memory.yaml`."""

    host_update_share: float = Field(gt=0, le=1, description="share of the host's memory rate in optimiser updates")
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def offload_facts() -> OffloadFacts:
    """What offloaded updates reach."""
    data = _file()["offload"]
    assert isinstance(data, dict)
    return build(OffloadFacts, data, "catalogue/training_memory.yaml")


@lru_cache(maxsize=1)
def runtime_memory() -> RuntimeMemory:
    """What a process takes beside tensors."""
    runtime = _file()["runtime"]
    assert isinstance(runtime, dict)
    return build(RuntimeMemory, runtime, "catalogue/training_memory.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLayout:
    """Degrees and batch of one layout, or of many.

    Attributes:
        model: the model.
        plan: supplies flags and number formats; its degrees are not read.
        engine: whose habits apply.
        seq_len: tokens per sequence.
        tp, pp, cp, ep, etp: parallel degrees.
        virtual: model chunks per pipeline rank.
        sequences: sequences per microbatch.
        microbatches: microbatches per step.
        zero_ranks: ranks over which states of ordinary weights are sharded (1 without ZeRO).
        expert_zero_ranks: the same for routed experts.
        secondary_ranks: ranks that share a second copy of weights (ZeRO++), 0 without.
    """

    model: ModelSpec
    plan: TrainingPlan
    engine: TrainingEngine
    seq_len: float
    tp: Number
    pp: Number
    cp: Number
    ep: Number
    etp: Number
    virtual: Number
    sequences: Number
    microbatches: Number
    zero_ranks: Number
    expert_zero_ranks: Number
    secondary_ranks: Number = 0.0

    @property
    def habits(self) -> EngineMemory:
        """The engine's habits."""
        return engine_memory(self.engine)

    @property
    def tokens(self) -> Number:
        """Tokens of a microbatch on a rank's context share."""
        return self.sequences * self.seq_len / self.cp

    @property
    def rows(self) -> Number:
        """Rows of what sequence parallelism shards."""
        return self.tokens / self.tp if self.plan.sequence_parallel else self.tokens

    @property
    def value_bytes(self) -> float:
        """Bytes of an activation value outside narrow products."""
        return 4.0 if self.plan.compute_dtype in ("fp32", "tf32") else 2.0

    @property
    def input_bytes(self) -> float:
        """Bytes of a kept input of a linear layer."""
        narrow = DTYPE_BYTES_TRAINING[self.plan.compute_dtype]
        return min(narrow, self.value_bytes) if self.habits.narrow_inputs else self.value_bytes

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight as forward and backward read it; 8-bit arithmetic keeps 16-bit weights."""
        return DTYPE_BYTES_TRAINING[self.plan.weight_dtype]

    @property
    def gradient_bytes(self) -> float:
        """Bytes of an accumulated gradient value."""
        return 4.0 if self.plan.grad_dtype == "fp32" else 2.0

    @property
    def vocab(self) -> Number:
        """Padded vocabulary rows per TP rank."""
        unit = np.asarray(self.habits.vocab_multiple * np.asarray(self.tp), dtype=np.float64)
        return np.ceil(self.model.vocab / unit) * self.habits.vocab_multiple


def memory_layout(job: TrainingJob) -> MemoryLayout:
    """The layout of one job."""
    plan = job.plan
    expert = job.expert_data_parallel if plan.zero_stage else 1
    group = plan.zero_group
    return MemoryLayout(
        model=job.model,
        plan=plan,
        engine=job.engine,
        seq_len=float(job.seq_len),
        tp=float(plan.tensor_parallel),
        pp=float(plan.pipeline_parallel),
        cp=float(plan.context_parallel),
        ep=float(plan.expert_parallel),
        etp=float(plan.expert_tensor),
        virtual=float(plan.virtual_stages),
        sequences=float(plan.micro_batch),
        microbatches=float(job.microbatches),
        zero_ranks=float(job.zero_ranks),
        expert_zero_ranks=float(min(group, expert) if group else expert),
        secondary_ranks=float(plan.zero_secondary_group),
    )
