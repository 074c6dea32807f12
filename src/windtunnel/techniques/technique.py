"""What a technique is: a published change to a deployment, with its citation, knobs and conflicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from windtunnel.specs.deployment import DeploymentSpec

Change = Literal["compute", "bytes", "memory", "schedule", "communication", "quality"]
Values = Mapping[str, Any]
"""Values of the knobs: numbers, and text where a knob takes words."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting of a technique.

    Attributes:
        name, about: what it is called and what it does, with its unit.
        default: its value when none is given; text makes it a knob that takes text.
        low, high: allowed values, both included.
        whole: whether only whole numbers are allowed.
        choices: the only values allowed, where not every one between is.
        words: the only text allowed; any text when empty.
    """

    name: str
    about: str
    default: float | str
    low: float = 0.0
    high: float = math.inf
    whole: bool = True
    choices: tuple[float, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The values it takes, in words."""
        if isinstance(self.default, str):
            return ", ".join(word for word in self.words if word) or "text"
        if self.choices:
            return ", ".join(f"{value:g}" for value in self.choices)
        kind = "a whole number" if self.whole else "a number"
        return (
            f"{kind} of at least {self.low:g}"
            if math.isinf(self.high)
            else f"{kind} from {self.low:g} to {self.high:g}"
        )

    @property
    def shown_default(self) -> str:
        """The default in words; a dash where it is left open."""
        return self.default or "-" if isinstance(self.default, str) else f"{self.default:g}"

    def read(self, text: str) -> float | str | None:
        """The value that a piece of text stands for; None when it is not allowed."""
        if isinstance(self.default, str):
            return text if not self.words or text in self.words else None
        try:
            value = float(text)
        except ValueError:
            return None
        return value if self.takes(value) else None

    def takes(self, value: float) -> bool:
        """Whether a number is allowed."""
        if self.choices:
            return value in self.choices
        return self.low <= value <= self.high and not (self.whole and value != int(value))


@dataclass(frozen=True, slots=True)
class Technique:
    """A published technique.

    Attributes:
        name: what `--technique` calls it.
        title: its name in full.
        citation, url: where it was published.
        changes: what it changes; `quality` when the model's answers change too, which no performance model judges.
        apply: the deployment with the technique, given the values of all knobs. Pure.
        kind: techniques of one kind replace one another and cannot be combined.
        knobs: its settings.
        conflicts: names of other techniques that it cannot be combined with, and why.
    """

    name: str
    title: str
    citation: str
    url: str
    changes: tuple[Change, ...]
    apply: Callable[[DeploymentSpec, Values], DeploymentSpec]
    kind: str = ""
    knobs: tuple[Knob, ...] = ()
    conflicts: Mapping[str, str] = field(default_factory=dict)


def with_engine(deployment: DeploymentSpec, **fields: object) -> DeploymentSpec:
    """The deployment with some settings of its engine changed."""
    return deployment.model_copy(update={"engine": deployment.engine.model_copy(update=fields)})


def with_plan(deployment: DeploymentSpec, **fields: object) -> DeploymentSpec:
    """The deployment with some fields of its plan changed."""
    return deployment.model_copy(update={"plan": deployment.plan.model_copy(update=fields)})


def with_whole_prompts(deployment: DeploymentSpec, **fields: object) -> DeploymentSpec:
    """The same for schedulers that never cut a prompt: a step must hold the longest request."""
    budget = max(deployment.engine.max_num_batched_tokens, deployment.max_model_len)
    return with_engine(deployment, max_num_batched_tokens=budget, enable_chunked_prefill=False, **fields)
