"""What LoRA adapters did in a run: how many a step held, and what copying them to the device took."""

from __future__ import annotations

from windtunnel.serving.result import Simulation


def adapter_figures(simulation: Simulation) -> dict[str, float]:
    """The figures of a run with LoRA adapters, by name.

    - `adapters_per_step`: different adapters in a step, mean over steps.
    - `adapter_loads`: copies of an adapter to the device.
    - `adapter_load_share`: time that steps waited for such copies over the time of all steps.
    """
    busy_s = float(simulation.busy_s.sum())
    return {
        "adapters_per_step": float(simulation.adapter_steps.sum()) / max(int(simulation.steps.sum()), 1),
        "adapter_loads": float(simulation.adapter_loads.sum()),
        "adapter_load_share": float(simulation.stalled_s.sum()) / busy_s if busy_s else float("nan"),
    }
