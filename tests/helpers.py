"""Helpers shared by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""Read-only data that stands beside the repository on some machines."""


def shared_file(*parts: str) -> Path:
    """A file of the shared data; skips the test, with a reason, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data file {'/'.join(parts)} is not here")
    return path
