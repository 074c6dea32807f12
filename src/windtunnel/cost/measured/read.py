"""Measured kernels from a folder or file of any known format, recognised by what is in it."""

from __future__ import annotations

from pathlib import Path

from windtunnel.cost.measured.aiconfigurator import NAME as AICONFIGURATOR
from windtunnel.cost.measured.aiconfigurator import read_aiconfigurator
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.measured.llmservingsim import is_profile, read_profile
from windtunnel.cost.measured.profile import is_own_profile, read_own_profile
from windtunnel.cost.measured.vidur import is_vidur, read_vidur
from windtunnel.errors import Problem, TraceError
from windtunnel.specs.hardware import AcceleratorSpec

FORMATS = (
    "a folder with profile.yaml, an LLMServingSim profile (meta.yaml and tpN/dense.csv), a Vidur CSV file, "
    f"or `{AICONFIGURATOR}` for the tables of that package"
)


def read_kernels(path: Path | str, accelerator: AcceleratorSpec | None = None) -> MeasuredKernels:
    """Measured kernels.

    Args:
        path: what holds them, or `aiconfigurator`.
        accelerator: what they are wanted for; another device's are refused.

    Raises:
        TraceError: nothing is there, the format is unknown, or its tables are wrong.
    """
    if str(path) == AICONFIGURATOR:
        if accelerator is None:
            raise TraceError(Problem("these tables are read for an accelerator", AICONFIGURATOR))
        return read_aiconfigurator(accelerator)
    path = Path(path)
    if not path.exists():
        raise TraceError(Problem("no such file or folder", str(path)))
    if is_own_profile(path):
        return read_own_profile(path, accelerator)
    if is_profile(path):
        return read_profile(path, accelerator)
    if is_vidur(path):
        return read_vidur(path, accelerator)
    raise TraceError(Problem("no measured kernels that are known", str(path), allowed=FORMATS))


_KEPT: dict[tuple[str, str], MeasuredKernels] = {}


def kept_kernels(accelerator: AcceleratorSpec) -> MeasuredKernels | None:
    """What the accelerator's `kernels` names, read once; None when it names nothing."""
    if not accelerator.kernels:
        return None
    key = (accelerator.kernels, accelerator.name)
    if key not in _KEPT:
        _KEPT[key] = read_kernels(accelerator.kernels, accelerator)
    return _KEPT[key]
