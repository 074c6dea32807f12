"""Accept names, paths or specs alike, and report the mistakes of several of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from windtunnel.errors import Problem, nearest
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.fields import Dtype
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.load import Collector, load, resolve
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

    def accelerators(
        self, values: str | AcceleratorSpec | Sequence[str | AcceleratorSpec]
    ) -> tuple[AcceleratorSpec, ...]:
        """Accelerators by name, path or spec, each once; one alone need not be in a list."""
        given = (values,) if isinstance(values, str | AcceleratorSpec) else tuple(values)
        found = [self.accelerator(value) for value in given]
        if not given:
            self.collect.problems.append(Problem("no accelerator given", "accelerators", allowed="such as h100-sxm"))
        return tuple({one.name: one for one in found if one is not None}.values())

    def precisions(self, values: str | Sequence[str]) -> tuple[str, ...]:
        """Weight formats, at least one."""
        given, known = (values,) if isinstance(values, str) else tuple(values), get_args(Dtype)
        allowed = ", ".join(known)
        if not given:
            self.collect.problems.append(Problem("no number format given", "precisions", allowed=allowed))
        for name in given:
            if name not in known:
                close = nearest(str(name), known)
                self.collect.problems.append(
                    Problem("unknown number format", "precisions", "", repr(name), allowed, close)
                )
        return tuple(name for name in given if name in known)

    def prices(
        self, values: Mapping[str, float] | None, accelerators: Sequence[AcceleratorSpec] = ()
    ) -> dict[str, float]:
        """The user's prices by accelerator, US dollars per hour, under the accelerators' own names."""
        found = {}
        own = {one.name: one for one in accelerators}
        for name, usd in (values or {}).items():
            device = own.get(name)
            if device is None:
                with self.collect:
                    device = resolve("accelerators", name, "prices")
            if not 0 <= usd < float("inf"):
                self.collect.problems.append(Problem("must be 0 or more dollars", "prices", name, repr(usd)))
            elif device is not None:
                found[device.name] = usd
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
