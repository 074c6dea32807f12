"""The workload as a user writes it: a trace file with its scaling, or a synthetic mix."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from windtunnel.specs.fields import Seconds, Source, Spec


class FixedLength(Spec):
    """Every request has the same length."""

    kind: Literal["fixed"] = "fixed"
    tokens: int = Field(ge=1)


class LognormalLength(Spec):
    """Lognormal lengths given by median and 90th percentile."""

    kind: Literal["lognormal"] = "lognormal"
    median_tokens: float = Field(ge=1)
    p90_tokens: float = Field(ge=1)
    max_tokens: int = Field(1_000_000, ge=1)


class QuantileLength(Spec):
    """Empirical lengths: quantile levels from 0 to 1 and their values, linear in between."""

    kind: Literal["quantiles"] = "quantiles"
    levels: tuple[float, ...]
    tokens: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> QuantileLength:
        if len(self.levels) != len(self.tokens) or len(self.levels) < 2:
            raise ValueError("levels and tokens must have the same length of at least 2")
        if any(b < a for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError("levels must not decrease")
        if any(b < a for a, b in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError("tokens must not decrease")
        return self


Length = Annotated[FixedLength | LognormalLength | QuantileLength, Field(discriminator="kind")]


class Arrivals(Spec):
    """When requests arrive.

    `poisson`: memoryless at `rate_per_s`. `gamma` and `weibull`: independent gaps with the
    coefficient of variation `cv`. `onoff`: Poisson bursts of `on_s` seconds with silences of
    `off_s`, the mean rate kept. `diurnal`: Poisson whose rate swings by +-`swing` over
    `period_s`. `uniform`: evenly spaced. `closed`: `concurrency` requests always in flight.
    `at_once`: all at time zero.
    """

    kind: Literal["poisson", "gamma", "weibull", "onoff", "diurnal", "uniform", "closed", "at_once"] = "poisson"
    rate_per_s: float = Field(1.0, gt=0)
    cv: float = Field(1.0, gt=0)
    on_s: Seconds = Field(10.0, gt=0)
    off_s: Seconds = Field(10.0, ge=0)
    period_s: Seconds = Field(86400.0, gt=0)
    swing: float = Field(0.5, ge=0, le=1)
    concurrency: int = Field(1, ge=1)
    think_s: Seconds = Field(0.0, ge=0)


class Sessions(Spec):
    """Conversations: each turn's prompt is the whole history plus new text."""

    turns: Length = Field(default_factory=lambda: FixedLength(tokens=1), description="turns per session")
    think_s: Seconds = Field(10.0, ge=0, description="mean think time between turns, exponential")


class WorkloadSpec(Spec):
    """Traffic: either `trace` (a file) or a synthetic mix.

    Attributes:
        trace: path of a trace file.
        requests: how many synthetic requests to draw.
        correlation: rank correlation of prompt and output length (Gaussian copula).
        shared_prefix_tokens: length of the system prompt that a group shares.
        shared_prefix_groups: number of such groups, chosen with equal chance; 0 means none.
        rate_scale: arrivals this many times as fast.
        start_s, end_s: keep this window of the trace.
        max_context_tokens: clip longer requests to this limit (0 means the deployment's limit).
    """

    name: str = ""
    aliases: tuple[str, ...] = ()
    title: str = ""
    trace: str = ""
    requests: int = Field(1000, ge=1)
    arrivals: Arrivals = Arrivals()
    prompt: Length = FixedLength(tokens=512)
    output: Length = FixedLength(tokens=128)
    correlation: float = Field(0.0, ge=-1, le=1)
    sessions: Sessions | None = None
    shared_prefix_tokens: int = Field(0, ge=0)
    shared_prefix_groups: int = Field(0, ge=0)
    rate_scale: float = Field(1.0, gt=0)
    start_s: Seconds = Field(0.0, ge=0)
    end_s: Seconds | None = None
    max_context_tokens: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    sources: tuple[Source, ...] = ()
