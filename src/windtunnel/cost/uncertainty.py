"""Kernel costs at the ends of their 80 % intervals, all operators of a class together.

For each operator class the calibration keeps the 10 % and 90 % quantiles of measured / predicted on rows
that the fit did not see. Errors of a class are mostly shared (a library's version, a clock, a shape family),
so one factor moves all of them: at `at`, from -1 to 1, the seconds of a class are multiplied by

    low ** -at   for at < 0,      high ** at   for at > 0

and all classes lean the same way. That is wider than independent errors would be, and it holds whatever the
share of each class. A simulation at -1 and one at +1 give the interval of every figure, waiting in queues
included, which no percentage on the result could.

Devices of which no kernel was measured take the residuals that measured devices have under the constants
of another architecture (`catalogue/calibration/across-devices.yaml`). Times of the engine and elementwise
kernels have no table; their bands are assumed there. Operators priced from measured tables lean the same way by the
spread of their timings, where the profile recorded it (`MeasuredKernels.leaning`), and do not move otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from windtunnel.cost.constants import (
    CollectiveConstants,
    DecodeConstants,
    GemmConstants,
    KernelConstants,
    MoeConstants,
)
from windtunnel.cost.device import Device, calibration
from windtunnel.specs.engine import EngineSpec

ACROSS = "across-devices"
"""The calibration entry with the residuals of devices under another architecture's constants."""
ENGINE_TIMES = (
    "step_host_s",
    "request_host_s",
    "overlapped_request_s",
    "launch_s",
    "prefill_launch_s",
    "eager_launch_s",
    "eager_latent_s",
    "eager_experts_s",
    "prefill_step_s",
    "step_device_s",
    "frontend_s",
    "frontend_token_s",
)
DECODE_TIMES = ("request_s", "head_s", "split_s", "combine_s", "regroup_s")
Band = tuple[float, float]


def bands_of(device: Device) -> dict[str, Band]:
    """The 80 % band of each operator class as factors on its seconds.

    Classes are `gemm.DTYPE`, `decode`, `prefill`, `moe`, `collective`, `elementwise` and `engine`.
    """
    assumed = calibration(ACROSS).across_devices
    if device.provenance != "calibrated":
        return dict(assumed)
    own = device.constants.intervals
    # A device may have been measured in part, such as its matrix products alone.
    return {**assumed, **{name: band for name, band in own.items() if name in device.constants.samples}}


def factor(bands: Mapping[str, Band], name: str, at: float) -> float:
    """What multiplies the seconds of a class; a number format without a band takes bf16's."""
    low, high = bands.get(name) or bands["gemm.bf16"]
    end = min(low, 1.0) if at < 0 else max(high, 1.0)
    return float(end ** abs(at))


def reach(device: Device) -> float:
    """How far the ends of an 80 % interval lie, in bands: farther where only the kernels' own residuals are known.

    Kernels of a calibrated device were measured with libraries of one time; engines differ in theirs. The residuals
    across devices hold such differences already.
    """
    return calibration(ACROSS).growth if device.provenance == "calibrated" else 1.0


def device_at(device: Device, at: float) -> Device:
    """The device with every kernel's time moved to `at` of its class's band; 0 is the device itself."""
    if not at:
        return device
    measured = device.measured.leaning(at) if device.measured else None
    return replace(device, constants=_moved(device, at), measured=measured)


def collective_at(constants: CollectiveConstants, device: Device, at: float) -> CollectiveConstants:
    """Collectives moved in the same way."""
    if not at:
        return constants
    by = factor(bands_of(device), "collective", at)
    return constants.model_copy(
        update={
            "one_shot_s": constants.one_shot_s * by,
            "peer_s": constants.peer_s * by,
            "ring_s": constants.ring_s * by,
            "switch_s": constants.switch_s * by,
            "hop_s": constants.hop_s * by,
            "efficiency": constants.efficiency / by,
        }
    )


def engine_at(engine: EngineSpec, at: float) -> EngineSpec:
    """The engine with its own times moved to `at` of their band."""
    if not at:
        return engine
    by = factor(calibration(ACROSS).across_devices, "engine", at)
    return engine.model_copy(update={name: getattr(engine, name) * by for name in ENGINE_TIMES})


@lru_cache(maxsize=256)
def _moved(device: Device, at: float) -> KernelConstants:
    c, bands = device.constants, bands_of(device)
    decode, prefill, moe = (factor(bands, name, at) for name in ("decode", "prefill", "moe"))
    latent = factor(bands, "latent" if "latent" in bands else "decode", at)
    simple = factor(bands, "elementwise", at)
    return c.model_copy(
        update={
            "name": f"{c.name} at {at:+g}",
            "gemm": {dtype: _gemm(one, factor(bands, f"gemm.{dtype}", at)) for dtype, one in c.gemm.items()},
            "decode": _decode(c.decode, decode),
            "latent": None if c.latent is None else _decode(c.latent, latent),
            "prefill": c.prefill.model_copy(
                update={
                    "compute_efficiency": c.prefill.compute_efficiency / prefill,
                    "launch_s": c.prefill.launch_s * prefill,
                    "score_cycles": c.prefill.score_cycles * prefill,
                    "tile_cycles": c.prefill.tile_cycles * prefill,
                    "prompt_cycles": c.prefill.prompt_cycles * prefill,
                    "kv_passes": c.prefill.kv_passes * prefill,
                    "score_bytes": c.prefill.score_bytes * prefill,
                }
            ),
            "moe": _moe(c.moe, moe),
            "moe_narrow": {
                dtype: _moe(one, factor(bands, f"moe_narrow.{dtype}" if f"moe_narrow.{dtype}" in bands else "moe", at))
                for dtype, one in c.moe_narrow.items()
            },
            "elementwise_efficiency": c.elementwise_efficiency / simple,
            "elementwise_launch_s": c.elementwise_launch_s * simple,
            "habits": c.habits.model_copy(
                update={
                    "load_bytes_per_s": c.habits.load_bytes_per_s / simple,
                    "unpacked_bytes_per_s": c.habits.unpacked_bytes_per_s / decode,
                }
            ),
        }
    )


def _decode(constants: DecodeConstants, by: float) -> DecodeConstants:
    return constants.model_copy(
        update={
            "memory_efficiency": constants.memory_efficiency / by,
            "compute_efficiency": constants.compute_efficiency / by,
            "launch_s": constants.launch_s * by,
            **{name: getattr(constants, name) * by for name in DECODE_TIMES},
        }
    )


def _moe(constants: MoeConstants, by: float) -> MoeConstants:
    return constants.model_copy(
        update={
            "compute_efficiency": constants.compute_efficiency / by,
            "memory_efficiency": constants.memory_efficiency / by,
            "launch_s": constants.launch_s * by,
            "row_s": constants.row_s * by,
        }
    )


def _gemm(constants: GemmConstants, by: float) -> GemmConstants:
    return constants.model_copy(
        update={
            "compute_efficiency": constants.compute_efficiency / by,
            "memory_efficiency": constants.memory_efficiency / by,
            "launch_s": constants.launch_s * by,
            "latency_depth_s": constants.latency_depth_s * by,
            "quantise_passes": constants.quantise_passes * by,
        }
    )
