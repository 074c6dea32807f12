"""An engine's own kernels: a device's constants with the engine's factors on them.

Kernel constants are fitted to the libraries of one time (the calibration entries name them). Engines
bring their own kernels, older or newer, and `EngineSpec.kernels` says how fast those are in proportion.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from windtunnel.cost.constants import (
    CollectiveConstants,
    DecodeConstants,
    GemmConstants,
    KernelConstants,
    KernelHabits,
    MoeConstants,
    PrefillConstants,
)
from windtunnel.cost.device import Device
from windtunnel.specs.engine import EngineSpec, KernelFactors
from windtunnel.specs.fields import DTYPE_BYTES

_NONE = KernelFactors()
DECODE_LAUNCHES = ("launch_s", "split_s", "combine_s", "regroup_s")
"""What decode attention takes beside its work."""
PREFILL_CYCLES = ("score_cycles", "tile_cycles", "prompt_cycles")
"""What prefill attention takes beside its matrix products; a faster kernel has less of it, too."""
EIGHT_BITS = ("fp8", "int8")


def device_under(device: Device, engine: EngineSpec) -> Device:
    """The device as the engine's kernels use it."""
    rate = engine.unpacked_rate.get(device.accelerator.architecture, 0.0)
    if rate:
        device = replace(device, unpacked_rate=rate)
    if engine.kernels == _NONE:
        return device
    accelerator = device.accelerator
    if engine.kernels.narrow_sums and "int8" in accelerator.peak_flops_per_s:
        # Sums in 16 bits run at half the 8-bit rate on every card; with 32-bit sums gaming cards halve it again.
        peaks = dict(accelerator.peak_flops_per_s)
        for dtype in ("fp16", "bf16"):
            if dtype in peaks:
                peaks[dtype] = max(peaks[dtype], peaks["int8"] / 2.0)
        accelerator = accelerator.model_copy(update={"peak_flops_per_s": peaks})
    measured = device.measured.at_rate(engine.kernels.measured) if device.measured else None
    constants = _scaled(device, engine.kernels)
    if engine.kernels.score_bytes:
        constants = constants.model_copy(update={"prefill": _unfused(constants.prefill, engine.max_num_batched_tokens)})
    if engine.kernels.kernel_clocks:
        constants = _clocked(constants, engine.kernels, engine.kernels.kernel_clocks / accelerator.clock_hz)
    return replace(device, accelerator=accelerator, constants=constants, measured=measured)


@lru_cache(maxsize=1024)
def _scaled(device: Device, factors: KernelFactors) -> KernelConstants:
    c, f = device.constants, factors
    return c.model_copy(
        update={
            "gemm": {dtype: _gemm(one, f, dtype) for dtype, one in c.gemm.items()},
            "decode": _decode(c.decode, f),
            "latent": None if c.latent is None else _decode(c.latent, f),
            "prefill": _prefill(c.prefill, f),
            "moe": _moe(c.moe, f),
            "moe_narrow": {
                dtype: _moe(one, f, f.narrow_experts if dtype in EIGHT_BITS else 1.0)
                for dtype, one in c.moe_narrow.items()
            },
            "sort_bytes": f.sort_bytes,
            "elementwise_launch_s": c.elementwise_launch_s * f.launch * f.elementwise_kernels,
            "habits": KernelHabits(**{name: getattr(f, name) for name in KernelHabits.model_fields}),
        }
    )


def _unfused(constants: PrefillConstants, step_tokens: int) -> PrefillConstants:
    """Attention whose scores are in memory: none of a fused kernel's terms.

    Scores are computed for the whole square of a step's tokens and masked afterwards: half of them too many a query.
    """
    fused = ("score_cycles", "tile_cycles", "prompt_cycles", "tail_share", "kv_passes")
    return constants.model_copy(update={"tile_tokens": step_tokens / 2.0} | dict.fromkeys(fused, 0.0))


def _clocked(c: KernelConstants, factors: KernelFactors, kernel_s: float) -> KernelConstants:
    """The constants with one fixed time for every kernel."""
    decode = {"launch_s": kernel_s * factors.decode_kernels} | dict.fromkeys(("combine_s", "regroup_s"), 0.0)
    return c.model_copy(
        update={
            "gemm": {dtype: one.model_copy(update={"launch_s": kernel_s}) for dtype, one in c.gemm.items()},
            "decode": c.decode.model_copy(update=decode),
            "latent": None if c.latent is None else c.latent.model_copy(update=decode),
            "prefill": c.prefill.model_copy(update={"launch_s": kernel_s * factors.decode_kernels}),
            "elementwise_launch_s": kernel_s * factors.elementwise_kernels,
        }
    )


def _share(value: float) -> float:
    """A share of a peak rate: no kernel goes beyond the hardware."""
    return min(value, 1.0)


def _decode(constants: DecodeConstants, factors: KernelFactors) -> DecodeConstants:
    return constants.model_copy(
        update={
            "memory_efficiency": _share(constants.memory_efficiency * factors.decode_attention),
            "compute_efficiency": _share(constants.compute_efficiency * factors.decode_attention),
            **{name: getattr(constants, name) * factors.launch for name in DECODE_LAUNCHES},
        }
    )


def _prefill(constants: PrefillConstants, factors: KernelFactors) -> PrefillConstants:
    cycles = {name: getattr(constants, name) / factors.prefill_attention for name in PREFILL_CYCLES}
    return constants.model_copy(
        update={
            **cycles,
            "compute_efficiency": _share(constants.compute_efficiency * factors.prefill_attention),
            "launch_s": constants.launch_s * factors.launch,
            "score_bytes": factors.score_bytes,
        }
    )


def _moe(constants: MoeConstants, factors: KernelFactors, rate: float = 1.0) -> MoeConstants:
    return constants.model_copy(
        update={
            "compute_efficiency": _share(constants.compute_efficiency * factors.experts_compute * rate),
            "memory_efficiency": _share(constants.memory_efficiency * factors.experts_memory * rate),
            "launch_s": constants.launch_s * factors.launch,
            "row_s": constants.row_s * factors.launch,
        }
    )


def _gemm(constants: GemmConstants, factors: KernelFactors, dtype: str) -> GemmConstants:
    narrow = factors.narrow_compute if DTYPE_BYTES[dtype] <= 1.0 else 1.0
    return constants.model_copy(
        update={
            "compute_efficiency": _share(constants.compute_efficiency * factors.gemm_compute * narrow),
            "memory_efficiency": _share(constants.memory_efficiency * factors.gemm_memory),
            "launch_s": constants.launch_s * factors.launch,
            "latency_depth_s": constants.latency_depth_s * factors.launch,
            "quantise_passes": constants.quantise_passes / factors.gemm_memory,
        }
    )


def collective_under(constants: CollectiveConstants, engine: EngineSpec) -> CollectiveConstants:
    """A device's collectives as the engine runs them."""
    f = engine.kernels
    if f == _NONE:
        return constants
    # How well kernels use a fabric says nothing of a bus, which binds by itself.
    collective = 1.0 if constants.over_host else f.collective
    return constants.model_copy(
        update={
            "one_shot_s": constants.one_shot_s * f.launch,
            "ring_s": constants.ring_s * f.launch,
            "peer_s": constants.peer_s * f.launch,
            "switch_s": constants.switch_s * f.launch,
            "hop_s": constants.hop_s * f.launch,
            "efficiency": _share(constants.efficiency * collective),
        }
    )
