"""Figures of a training job that published claims are about."""

from __future__ import annotations

from collections.abc import Callable

from windtunnel.errors import InfeasibleError
from windtunnel.specs.training import TrainingJob
from windtunnel.training.flops import training_flops_per_token
from windtunnel.training.memory import account
from windtunnel.training.memory_layer import layer_memory
from windtunnel.training.memory_layout import memory_layout
from windtunnel.training.memory_parts import standing, state_value_bytes
from windtunnel.training.memory_peak import total
from windtunnel.training.memory_stages import stage_load
from windtunnel.training.offload import check_offload, is_offloaded, offload_need, offload_time
from windtunnel.training.optimizers import state_bytes
from windtunnel.training.step import peak_flops_per_s, price
from windtunnel.training.update import update_work

LARGEST_BATCH = 512
LONGEST_SEQUENCE = 1 << 22


def memory_gb(job: TrainingJob) -> float:
    """Memory of the worst rank."""
    return account(job).total_bytes / 1e9


def states_gb(job: TrainingJob) -> float:
    """Weights, gradients, master copies and optimiser states of the first pipeline rank."""
    held = standing(memory_layout(job), stage_load(job.model, job.plan, job.microbatches, 0))
    return float(total([*held.parts, held.gradients])) / 1e9


def fits(job: TrainingJob) -> float:
    """1 when device, host memory and NVMe hold the job, else 0."""
    if not account(job).fits:
        return 0.0
    if is_offloaded(job):
        try:
            check_offload(job)
        except InfeasibleError:
            return 0.0
    return 1.0


def largest_microbatch(job: TrainingJob) -> float:
    """Most sequences per microbatch that fit, at two microbatches a step."""
    found = 0
    for size in range(1, LARGEST_BATCH):
        plan = job.plan.model_copy(update={"micro_batch": size})
        batch = 2 * size * job.data_parallel
        if not fits(job.model_copy(update={"plan": plan, "global_batch_sequences": batch})):
            break
        found = size
    return float(found)


def longest_sequence(job: TrainingJob) -> float:
    """Longest sequence, in powers of two, that fits."""
    found, length = 0, 1024
    while length <= LONGEST_SEQUENCE and fits(job.model_copy(update={"seq_len": length})):
        found, length = length, 2 * length
    return float(found)


def state_bytes_per_weight(job: TrainingJob) -> float:
    """Bytes of the optimiser's states per weight, before sharding."""
    layout = memory_layout(job)
    matrices = standing(layout, stage_load(job.model, job.plan, job.microbatches, 0)).matrices
    each = state_value_bytes(layout)
    held = (state_bytes(job.plan.optimizer, m, rank=job.plan.optimizer_rank, value_bytes=each) for m in matrices)
    return float(sum(held)) / float(sum(m.values for m in matrices))


def attention_memory(job: TrainingJob) -> float:
    """Bytes that the core of attention keeps of a layer: its scores or statistics, and its output."""
    layer = layer_memory(memory_layout(job), routed=False)
    names = ("softmax", "softmax statistics", "softmax dropout mask", "softmax after dropout", "attention output")
    return float(sum(tensor.bytes for tensor in layer.kept if tensor.name in names))


def update_bytes(job: TrainingJob) -> float:
    """Bytes that an optimiser step touches on a rank: what bounds its kernel."""
    return float(update_work(job).bytes)


def offloaded_tflops(job: TrainingJob) -> float:
    """TFLOP/s of one accelerator with offloading, recomputation counted, its products at the datasheet's peak."""
    forward = 2.0 * job.model.active_parameters() * job.tokens / job.gpus
    peak = job.accelerator.peak_flops_per_s["fp16"]
    step = offload_time(job, forward / peak, 3.0 * forward / peak)
    return 4.0 * forward / step.step_s / 1e12


def step_s(job: TrainingJob) -> float:
    """Seconds of a step."""
    return price(job).seconds


def tokens_per_s(job: TrainingJob) -> float:
    """Tokens per second, all accelerators."""
    return job.tokens / step_s(job)


def stated_tflops(job: TrainingJob) -> float:
    """Model TFLOP/s per accelerator as most papers count them: attention over the whole square, no recomputation."""
    return _stated_flops(job) / step_s(job) / job.gpus / 1e12


def stated_mfu(job: TrainingJob) -> float:
    """The same over the peak of the plan's format."""
    return 1e12 * stated_tflops(job) / peak_flops_per_s(job)


def stated_hfu(job: TrainingJob) -> float:
    """The same with full recomputation counted as work: a third more, as Megatron-LM's throughput does."""
    again = 4.0 / 3.0 if job.plan.recompute == "full" else 1.0
    return again * stated_mfu(job)


def stated_hardware_tflops(job: TrainingJob) -> float:
    """TFLOP/s per accelerator with full recomputation counted."""
    return stated_hfu(job) * peak_flops_per_s(job) / 1e12


def petaflops(job: TrainingJob) -> float:
    """Hardware petaFLOP/s of all accelerators, as papers count them."""
    return stated_hardware_tflops(job) * job.gpus / 1e3


def _stated_flops(job: TrainingJob) -> float:
    return training_flops_per_token(job.model, job.seq_len, causal=False) * job.tokens


def largest_batch_tokens_per_s(job: TrainingJob) -> float:
    """Tokens per second at the largest microbatch that fits, a step of the job's batch or of one microbatch."""
    micro = int(largest_microbatch(job))
    if micro == 0:
        return 0.0
    data = job.data_parallel
    micros = max(1, round(job.global_batch_sequences / (data * micro)))
    plan = job.plan.model_copy(update={"micro_batch": micro})
    return tokens_per_s(job.model_copy(update={"plan": plan, "global_batch_sequences": micros * data * micro}))


def host_gb(job: TrainingJob) -> float:
    """Host memory of a node that offloading takes."""
    return offload_need(job).host_bytes / 1e9


FIGURES: dict[str, Callable[[TrainingJob], float]] = {
    "memory_gb": memory_gb,
    "states_gb": states_gb,
    "fits": fits,
    "largest_microbatch": largest_microbatch,
    "longest_sequence": longest_sequence,
    "state_bytes_per_weight": state_bytes_per_weight,
    "attention_memory": attention_memory,
    "update_bytes": update_bytes,
    "offloaded_tflops": offloaded_tflops,
    "host_gb": host_gb,
    "step_s": step_s,
    "tokens_per_s": tokens_per_s,
    "tflops": stated_tflops,
    "mfu": stated_mfu,
    "hfu": stated_hfu,
    "hardware_tflops": stated_hardware_tflops,
    "petaflops": petaflops,
    "largest_batch_tokens_per_s": largest_batch_tokens_per_s,
}
"""Figures by name."""
