"""What the device at hand is: measured rates, and the file that every command accepts as `--accelerator`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

from windtunnel.live.profile.timing import timed
from windtunnel.live.profile.torch_kernels import TorchKernels
from windtunnel.specs.load import names, resolve

COPY_BYTES = 256 * 2**20
PRODUCT = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """Rates of a device, measured.

    Attributes:
        title: what the system calls it.
        bandwidth_bytes_per_s: bytes read plus bytes written by a large copy.
        flops_per_s: rate of a large product by number format.
        launch_s: time of the smallest kernel.
        memory_bytes: memory that software sees.
        processors: cores or streaming multiprocessors.
        power_w: power while products run, where the platform tells; 0 where it does not.
    """

    title: str
    bandwidth_bytes_per_s: float
    flops_per_s: dict[str, float]
    launch_s: float
    memory_bytes: float
    processors: int
    power_w: float


def measure_device(kernels: TorchKernels) -> DeviceRates:
    """Measure the rates of the device."""
    size = PRODUCT[kernels.device]
    flops = {}
    for dtype in ("fp32", "bf16"):
        found = timed(kernels.product(size, dtype), kernels.finish)
        flops[dtype] = 2.0 * size**3 / found.seconds
    copied = timed(kernels.copy(COPY_BYTES), kernels.finish)
    launch = timed(kernels.empty(), kernels.finish)
    title, memory, processors = _identity(kernels)
    return DeviceRates(
        title=title,
        bandwidth_bytes_per_s=2.0 * COPY_BYTES / copied.seconds,
        flops_per_s=flops,
        launch_s=launch.seconds,
        memory_bytes=memory,
        processors=processors,
        power_w=_power_w(kernels),
    )


def device_file(rates: DeviceRates, name: str, date: str, software: str) -> dict[str, Any]:
    """The device as the catalogue writes one, naming the folder of its kernels."""
    base = _catalogued(rates.title) or "generic-cpu"
    data: dict[str, Any] = {"extends": base, "name": name, "title": rates.title, "kernels": "."}
    measured = {
        "memory_bytes": f"{rates.memory_bytes / 2**30:.1f} GiB",
        "memory_bandwidth_bytes_per_s": f"{rates.bandwidth_bytes_per_s / 1e9:.4g} GB/s",
        "peak_flops_per_s": {kind: f"{rate / 1e12:.4g} TFLOP/s" for kind, rate in rates.flops_per_s.items()},
        "vector_flops_per_s": f"{rates.flops_per_s['fp32'] / 1e12:.4g} TFLOP/s",
        "processors": rates.processors,
    }
    if base != "generic-cpu":
        # A known accelerator keeps its datasheet; its kernels are what was measured.
        return data
    source = f"measured by `windtunnel profile` with {software}"
    return {
        **data,
        **measured,
        "sources": [
            {"fields": sorted(measured), "kind": "measured", "source": source, "date": date},
            {"kind": "assumed", "source": "a processor's usual values, as generic-cpu", "date": date},
        ],
    }


def _catalogued(title: str) -> str:
    """The catalogue's accelerator that goes by this name, or an empty string."""
    wanted = title.casefold()
    for name in names("accelerators"):
        spec = resolve("accelerators", name)
        if any(alias.casefold() in wanted for alias in (spec.title, *spec.aliases) if len(alias) > 3):
            return str(spec.name)
    return ""


def _identity(kernels: TorchKernels) -> tuple[str, float, int]:
    """(what it is called, memory in bytes, processors)."""
    if kernels.device == "cuda":
        found = kernels.torch.cuda.get_device_properties(0)
        return str(found.name), float(found.total_memory), int(found.multi_processor_count)
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) if hasattr(os, "sysconf") else 16 * 2.0**30
    return _processor_name(), memory, int(kernels.torch.get_num_threads())


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _power_w(kernels: TorchKernels) -> float:
    """Board power while products run, from the driver; 0 where there is no reading."""
    if kernels.device != "cuda":
        return 0.0
    run = kernels.product(PRODUCT["cuda"], "bf16")
    for _ in range(50):
        run()
    try:
        watts = float(kernels.torch.cuda.power_draw()) / 1e3
    except Exception:  # the reading needs a driver library that may be missing; the profile does without
        watts = 0.0
    kernels.finish()
    return watts
