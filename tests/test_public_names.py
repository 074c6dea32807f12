"""The public interface is small, pinned, documented and cheap to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import windtunnel as wt

NAMES = {
    "AcceleratorSpec", "InfeasibleError", "InputError", "ModelSpec", "PlanSpec", "WindtunnelError",
    "WorkloadSpec", "catalogue", "decode_batch", "deployment", "explain", "parse_slo", "plan", "prefill_batch",
    "request_table", "save", "schedule", "show", "simulate", "train",
}  # fmt: skip


def test_names_are_pinned_and_at_most_twenty() -> None:
    assert set(wt.__all__) == NAMES
    assert len(NAMES) <= 20
    assert set(dir(wt)) == NAMES


def test_every_name_is_documented() -> None:
    for name in NAMES:
        assert inspect.getdoc(getattr(wt, name)), name


def test_importing_the_package_pulls_in_nothing_heavy() -> None:
    code = "import sys, windtunnel; print([m for m in ('numpy', 'numba', 'pydantic', 'polars') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
