"""Windtunnel predicts, explains and optimises how a large-language-model system will perform.

>>> import windtunnel as wt
>>> "llama-3.1-8b" in wt.catalogue("models")
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.answers import save, show
    from windtunnel.api import catalogue, explain, plan, schedule, simulate, train
    from windtunnel.errors import InfeasibleError, InputError, WindtunnelError
    from windtunnel.operators.batch import decode_batch, prefill_batch
    from windtunnel.specs.assemble import deployment
    from windtunnel.specs.hardware import AcceleratorSpec
    from windtunnel.specs.model import ModelSpec
    from windtunnel.specs.plan import PlanSpec
    from windtunnel.specs.slo import parse_slo
    from windtunnel.specs.workload import WorkloadSpec
    from windtunnel.workload.table import request_table

# Where each public name lives. They are imported when first used, so that `import windtunnel` costs nothing.
_HOME = {
    "plan": "windtunnel.api",
    "simulate": "windtunnel.api",
    "explain": "windtunnel.api",
    "train": "windtunnel.api",
    "schedule": "windtunnel.api",
    "catalogue": "windtunnel.api",
    "show": "windtunnel.answers",
    "save": "windtunnel.answers",
    "deployment": "windtunnel.specs.assemble",
    "ModelSpec": "windtunnel.specs.model",
    "AcceleratorSpec": "windtunnel.specs.hardware",
    "PlanSpec": "windtunnel.specs.plan",
    "WorkloadSpec": "windtunnel.specs.workload",
    "parse_slo": "windtunnel.specs.slo",
    "request_table": "windtunnel.workload.table",
    "decode_batch": "windtunnel.operators.batch",
    "prefill_batch": "windtunnel.operators.batch",
    "WindtunnelError": "windtunnel.errors",
    "InputError": "windtunnel.errors",
    "InfeasibleError": "windtunnel.errors",
}

__all__ = [
    "AcceleratorSpec",
    "InfeasibleError",
    "InputError",
    "ModelSpec",
    "PlanSpec",
    "WindtunnelError",
    "WorkloadSpec",
    "catalogue",
    "decode_batch",
    "deployment",
    "explain",
    "parse_slo",
    "plan",
    "prefill_batch",
    "request_table",
    "save",
    "schedule",
    "show",
    "simulate",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'windtunnel' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
