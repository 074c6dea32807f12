"""Accept names, paths or specs alike, and report the mistakes of several of them together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.load import Collector, load
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.slo import SloSpec, parse_slo


class Acceptor:
    """Turns names and paths into specs, keeping every problem for the end."""

    def __init__(self) -> None:
        self.collect = Collector()

    def _load(self, kind: str, value: Any, where: str) -> Any:
        if not isinstance(value, str):
            return value
        found = None
        with self.collect:
            found = load(kind, value, where)
        return found

    def model(self, value: str | ModelSpec) -> ModelSpec:
        """A model by name, path or spec."""
        found: ModelSpec = self._load("models", value, "model")
        return found

    def accelerator(self, value: str | AcceleratorSpec) -> AcceleratorSpec:
        """An accelerator by name, path or spec."""
        found: AcceleratorSpec = self._load("accelerators", value, "accelerator")
        return found

    def engine(self, value: str | EngineSpec) -> EngineSpec:
        """An engine by name, path or spec."""
        found: EngineSpec = self._load("engines", value, "engine")
        return found

    def slo(self, value: str | SloSpec) -> SloSpec:
        """Targets as text or spec."""
        found = SloSpec()
        with self.collect:
            found = parse_slo(value, "slo") if isinstance(value, str) else value
        return found


@contextmanager
def accept() -> Iterator[Acceptor]:
    """Collect problems inside the block; raise them together at its end."""
    acceptor = Acceptor()
    yield acceptor
    acceptor.collect.check()
