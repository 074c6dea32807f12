"""Measured kernels from a folder or file of any known format, recognised by what is in it."""

from __future__ import annotations

from pathlib import Path

from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.measured.llmservingsim import is_profile, read_profile
from windtunnel.errors import Problem, TraceError
from windtunnel.specs.hardware import AcceleratorSpec

FORMATS = "an LLMServingSim profile (meta.yaml and tpN/dense.csv)"


def read_kernels(path: Path, accelerator: AcceleratorSpec | None = None) -> MeasuredKernels:
    """Measured kernels.

    Args:
        path: what holds them.
        accelerator: what they are wanted for; another device's are refused.

    Raises:
        TraceError: nothing is there, the format is unknown, or its tables are wrong.
    """
    if not path.exists():
        raise TraceError(Problem("no such file or folder", str(path)))
    if path.is_dir() and is_profile(path):
        return read_profile(path, accelerator)
    raise TraceError(Problem("no measured kernels that are known", str(path), allowed=FORMATS))
