"""The adapters' costs behind the model's in the array that the kernel reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from windtunnel.cost.surface import StepSurface
from windtunnel.errors import SpecError
from windtunnel.specs.lora import LoraSpec

Array = npt.NDArray[Any]


def append_adapters(world: Array, spec: LoraSpec, surface: StepSurface, token: Array) -> Array:
    """Costs by tokens with the adapters' rows behind the model's, and the fields of `WORLD` that say where."""
    world["adapters"], world["max_loras"] = spec.adapters, spec.max_loras
    cost = surface.adapters
    if surface.linear is not None:
        return token
    if cost is None:
        raise SpecError("the step surface is of steps without adapters, the settings have LoRA adapters")
    world["adapter_row"] = len(token)
    world["adapter_further_s"], world["adapter_further_j"] = cost.further_s, cost.further_j
    world["adapter_load_s"] = cost.load_s
    rows = np.zeros(len(cost.token_s), dtype=token.dtype)
    rows["body_s"], rows["body_j"] = cost.token_s, cost.token_j
    return np.concatenate([token, rows])
