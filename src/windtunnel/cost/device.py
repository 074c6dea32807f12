"""A device as the cost model sees it: an accelerator and the constants that price its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from windtunnel.cost.constants import KernelConstants
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.measured.read import kept_kernels
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.load import build, catalogue_folder, merged, names, read_catalogue_yaml

FALLBACK = "generic"


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator with its constants.

    Attributes:
        accelerator: the datasheet.
        constants: fitted for this device, or inherited.
        provenance: `calibrated` when fitted on kernels measured on this device, `datasheet` when the
            constants are its family's.
        inherited_from: the calibration entry used when provenance is `datasheet`.
        unpacked_rate: of the engine's attention on this architecture (see `EngineSpec`); 0: always packed.
        measured: tables that are asked before the constants; None without any.
    """

    accelerator: AcceleratorSpec
    constants: KernelConstants
    provenance: str
    inherited_from: str = ""
    unpacked_rate: float = 0.0
    measured: MeasuredKernels | None = None

    def peak_flops_per_s(self, dtype: str) -> float:
        """Dense matrix peak in a format; formats without units of their own run at bf16's (or fp16's) rate."""
        peaks: dict[Any, float] = dict(self.accelerator.peak_flops_per_s)
        for key in (dtype, "bf16", "fp16", "fp32"):
            if key in peaks:
                return float(peaks[key])
        return float(max(peaks.values()))

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Datasheet memory bandwidth."""
        return self.accelerator.memory_bandwidth_bytes_per_s

    @property
    def processors(self) -> int:
        """Streaming multiprocessors or their like."""
        return self.accelerator.processors

    def __hash__(self) -> int:
        rate = self.accelerator.memory_bandwidth_bytes_per_s
        return hash((self.accelerator.name, self.constants.name, rate, self.unpacked_rate, id(self.measured)))


@cache
def calibration(name: str) -> KernelConstants:
    """A calibration entry of the catalogue; `extends` lays it over another one."""
    data = read_catalogue_yaml("calibration", name)
    seen = {name}
    while "extends" in data:
        parent = str(data.pop("extends"))
        assert parent not in seen, f"calibration {name} extends itself"
        seen.add(parent)
        data = merged(read_catalogue_yaml("calibration", parent), data)
    return build(KernelConstants, data, f"catalogue/calibration/{name}.yaml")


def device_of(accelerator: AcceleratorSpec) -> Device:
    """The device of an accelerator: its own constants, its family's, or the generic ones."""
    known, kernels = calibration_names(), kept_kernels(accelerator)
    if accelerator.name in known and calibration(accelerator.name).samples:
        return Device(accelerator, calibration(accelerator.name), "calibrated", measured=kernels)
    for name in (accelerator.name, accelerator.architecture, FALLBACK):
        if name in known:
            return Device(accelerator, calibration(name), "datasheet", name, measured=kernels)
    raise AssertionError("the catalogue has no generic calibration")


@lru_cache(maxsize=1)
def calibration_names() -> frozenset[str]:
    """Names of all calibration entries."""
    return frozenset(names("calibration"))


def stored_bytes(dtype: str) -> float:
    """Bytes per stored value of a number format, scales included."""
    return DTYPE_BYTES[dtype]


def calibration_folder() -> Any:
    """The packaged folder of calibration entries."""
    return catalogue_folder("calibration")
