"""Elementwise kernels (norms, activations, residuals, embeddings): bandwidth and a fixed time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from windtunnel.cost.device import Device


def elementwise_seconds(moved_bytes: npt.ArrayLike, device: Device, kernels: float = 1.0) -> npt.NDArray[np.float64]:
    """Seconds of `kernels` fused kernels that move so many bytes in all (read and written).

    seconds = kernels * launch + bytes / (efficiency * bandwidth); nothing moved takes no time.
    """
    moved = np.asarray(moved_bytes, dtype=np.float64)
    rate = device.constants.elementwise_efficiency * device.bandwidth_bytes_per_s
    return np.where(moved > 0, kernels * device.constants.elementwise_launch_s + moved / rate, 0.0)
