"""Measured kernels from a folder or file of any known format, recognised by what is in it."""

from __future__ import annotations

from pathlib import Path

from windtunnel.cost.measured.aiconfigurator import NAME as AICONFIGURATOR
from windtunnel.cost.measured.aiconfigurator import read_aiconfigurator
from windtunnel.cost.measured.kernels import MeasuredKernels
from windtunnel.cost.measured.llmservingsim import is_profile, profiled_device, read_profile
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
    below = _profiles_below(path, accelerator)
    if below:
        return below
    raise TraceError(Problem("no measured kernels that are known", str(path), allowed=FORMATS))


def _profiles_below(path: Path, accelerator: AcceleratorSpec | None) -> MeasuredKernels | None:
    """The profiles of an accelerator in the folders below, taken together; None when there are none.

    Tables are kept by what their kernels do, so profiles of several models complement each other.
    """
    folders = sorted(meta.parent for meta in path.glob("**/meta.yaml") if is_profile(meta.parent))
    wanted = [one for one in folders if accelerator is None or profiled_device(one) == accelerator.name]
    found = [read_profile(folder) for folder in wanted]
    if folders and not found and accelerator is not None:
        message = f"none of these kernels were measured on {accelerator.name}"
        raise TraceError(Problem(message, str(path), got=", ".join(str(folder) for folder in folders)))
    if len({one.device for one in found}) > 1:
        devices = ", ".join(sorted({one.device for one in found}))
        raise TraceError(Problem("these kernels are of several devices", str(path), got=devices))
    if not found:
        return None
    return MeasuredKernels(
        found[0].device,
        f"{len(found)} LLMServingSim profiles of {found[0].device}",
        {key: one for kernels in reversed(found) for key, one in kernels.tables.items()},
        frozenset().union(*(kernels.included for kernels in found)),
        lane_rates={key: rate for kernels in reversed(found) for key, rate in kernels.lane_rates.items()},
    )


_KEPT: dict[tuple[str, str], MeasuredKernels] = {}


def kept_kernels(accelerator: AcceleratorSpec) -> MeasuredKernels | None:
    """What the accelerator's `kernels` names, read once; None when it names nothing."""
    if not accelerator.kernels:
        return None
    key = (accelerator.kernels, accelerator.name)
    if key not in _KEPT:
        _KEPT[key] = read_kernels(accelerator.kernels, accelerator)
    return _KEPT[key]
