"""How fast this machine is at the moment: a short reference measurement, kept with profiles and with loads.

Shared machines change their speed within minutes, by clocks and by neighbours. The same fixed work, timed with a
profile and again before and after a load, says by how much, apart from the engine and from the model.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import Problem, TraceError
from windtunnel.files import write_atomic
from windtunnel.live import reference_kernels

FILE = "reference.json"
"""In a profile's folder, beside its tables."""
LIMIT_S = 30.0
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """Times of the fixed work of `reference_kernels`.

    Attributes:
        software: what ran it; references of different software are not compared.
        at: when, UTC.
        product_s, read_s, host_s: a product bound by arithmetic, a read bound by memory, and Python with calls of the
            smallest kernel, seconds.
        spread: of the timings, 90th less 10th percentile over the time that counts, the widest of the three.
    """

    software: str
    at: str
    product_s: float
    read_s: float
    host_s: float
    spread: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_reference(python: str = "") -> Reference | None:
    """Run the reference work in a process of its own, about a second long.

    Args:
        python: the interpreter that runs it; empty for this one.

    Returns:
        None where that interpreter cannot run it.
    """
    script = reference_kernels.__file__
    command = [python or sys.executable, "-I", script]
    at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        done = subprocess.run(
            command, env={**os.environ, **ONE_THREAD}, check=True, capture_output=True, text=True, timeout=LIMIT_S
        )
        found = json.loads(done.stdout)
        work = found["work"]
        times = {f"{name}_s": float(work[name]["seconds"]) for name in reference_kernels.WORK}
        spread = max(float(one["spread"]) for one in work.values())
        return Reference(str(found["software"]), at, **times, spread=spread)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None


def reference_of(data: Mapping[str, Any], where: str) -> Reference:
    """A reference from its plain values.

    Raises:
        TraceError: a value is missing, or a time is not above zero.
    """
    try:
        times = {name: float(data[name]) for name in ("product_s", "read_s", "host_s", "spread")}
        found = Reference(str(data["software"]), str(data["at"]), **times)
    except (KeyError, TypeError, ValueError):
        raise TraceError(Problem("is no reference measurement", where, got=repr(data)[:80])) from None
    if not all(times[name] > 0 and np.isfinite(times[name]) for name in ("product_s", "read_s", "host_s")):
        raise TraceError(Problem("a reference takes more than no time", where, got=repr(times)))
    return found


def write_references(folder: Path, references: Sequence[Reference]) -> None:
    """Keep a profile's references beside its tables."""
    text = json.dumps([one.as_dict() for one in references], indent=2)
    write_atomic(folder / FILE, text + "\n")


def read_references(folder: Path | str) -> tuple[Reference, ...]:
    """The references of a profile; none where it was measured without.

    Raises:
        TraceError: the file is broken.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return ()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TraceError(Problem(f"is not JSON: {error}", str(path))) from None
    if not isinstance(data, list):
        raise TraceError(Problem("is no list of reference measurements", str(path)))
    return tuple(reference_of(one, str(path)) for one in data)
