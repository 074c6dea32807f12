"""Elementwise kernels (norms, activations, residuals, embeddings): bandwidth and a fixed time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.cost.device import Device

Floats = npt.NDArray[np.float64]


def elementwise_seconds(moved_bytes: npt.ArrayLike, device: Device, kernels: float = 1.0) -> Floats:
    """Seconds of `kernels` fused kernels that move so many bytes in all (read and written).

    seconds = kernels * launch + bytes / (efficiency * bandwidth); nothing moved takes no time.
    """
    moved = np.asarray(moved_bytes, dtype=np.float64)
    streaming = streaming_seconds(moved * device.constants.habits.elementwise_bytes, device)
    return np.where(moved > 0, kernels * device.constants.elementwise_launch_s + streaming, 0.0)


def streaming_seconds(moved_bytes: npt.ArrayLike, device: Device) -> Floats:
    """Seconds to move bytes at the rate that elementwise kernels reach."""
    moved = np.asarray(moved_bytes, dtype=np.float64)
    rate = device.constants.elementwise_efficiency * device.bandwidth_bytes_per_s
    return loaded_seconds(moved / rate, moved, device)


def loaded_seconds(seconds: Floats, moved_bytes: npt.ArrayLike, device: Device) -> Floats:
    """Seconds of memory traffic when a processor can have only so much loaded at a time.

    Little's law: loads in flight over their latency bound what a processor streams, however wide the memory.
    """
    rate = device.constants.habits.load_bytes_per_s * device.processors
    if not rate:
        return seconds
    return np.cbrt(seconds**3 + (np.asarray(moved_bytes, dtype=np.float64) / rate) ** 3)
