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
    max_tokens: int = Field(default=1_000_000, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> LognormalLength:
        if self.p90_tokens < self.median_tokens:
            raise ValueError("p90_tokens must not be below median_tokens")
        return self


class QuantileLength(Spec):
    """Empirical lengths: quantile levels from 0 to 1 and their values, linear in between."""

    kind: Literal["quantiles"] = "quantiles"
    levels: tuple[float, ...]
    tokens: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> QuantileLength:
        if len(self.levels) != len(self.tokens) or len(self.levels) < 2:
            raise ValueError("levels and tokens must have the same length of at least 2")
        if self.levels[0] != 0.0 or self.levels[-1] != 1.0:
            raise ValueError("levels must begin with 0 and end with 1")
        if not self.tokens[0] >= 1:
            raise ValueError("tokens must be at least 1")
        if not all(a <= b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError("levels must not decrease")
        if not all(a <= b for a, b in zip(self.tokens, self.tokens[1:], strict=False)):
            raise ValueError("tokens must not decrease")
        return self


Length = Annotated[FixedLength | LognormalLength | QuantileLength, Field(discriminator="kind")]


class Arrivals(Spec):
    """When requests arrive.

    `poisson`: memoryless at `rate_per_s`. `gamma` and `weibull`: independent gaps with the
    coefficient of variation `cv`. `onoff`: Poisson bursts of `on_s` seconds with silences of
    `off_s`, the mean rate kept. `diurnal`: Poisson whose rate swings by +-`swing` over
    `period_s`. `profile`: the rate follows `profile`, relative rates of successive intervals of
    `interval_s`, over and over; gaps relative to that rate are gamma with `cv`. `uniform`: evenly
    spaced. `closed`: `concurrency` requests always in flight. `at_once`: all at time zero.
    """

    kind: Literal["poisson", "gamma", "weibull", "onoff", "diurnal", "profile", "uniform", "closed", "at_once"] = (
        "poisson"
    )
    rate_per_s: float = Field(default=1.0, gt=0)
    cv: float = Field(default=1.0, gt=0)
    on_s: Seconds = Field(default=10.0, gt=0)
    off_s: Seconds = Field(default=10.0, ge=0)
    period_s: Seconds = Field(default=86400.0, gt=0)
    swing: float = Field(default=0.5, ge=0, le=1)
    profile: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()
    interval_s: Seconds = Field(default=60.0, gt=0)
    concurrency: int = Field(default=1, ge=1)
    think_s: Seconds = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Arrivals:
        if self.kind == "profile" and not sum(self.profile) > 0:
            raise ValueError("arrivals of kind profile need `profile`, with at least one rate above 0")
        return self


class Sessions(Spec):
    """Conversations: each turn's prompt is the whole history plus new text.

    The arrival rate stays that of requests: conversations start at the rate divided by the mean
    number of turns. In a closed loop each of `concurrency` users holds one conversation after
    another, with the think time of the arrivals in between.
    """

    turns: Length = Field(default_factory=lambda: FixedLength(tokens=1), description="turns per session")
    think_s: Seconds = Field(default=10.0, ge=0, description="mean think time between turns, exponential")


class WorkloadSpec(Spec):
    """Traffic: either `trace` (a file) or a synthetic mix.

    Attributes:
        trace: path of a trace file; with `arrivals` given too, only its lengths are used.
        requests: how many synthetic requests to draw.
        correlation: rank correlation of prompt and output length (Gaussian copula).
        prompt: new prompt text per request; system prompt and history come on top of it.
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
    requests: int = Field(default=1000, ge=1)
    arrivals: Arrivals = Arrivals()
    prompt: Length = FixedLength(tokens=512)
    output: Length = FixedLength(tokens=128)
    correlation: float = Field(default=0.0, ge=-1, le=1)
    sessions: Sessions | None = None
    shared_prefix_tokens: int = Field(default=0, ge=0)
    shared_prefix_groups: int = Field(default=0, ge=0)
    rate_scale: float = Field(default=1.0, gt=0)
    start_s: Seconds = Field(default=0.0, ge=0)
    end_s: Seconds | None = None
    max_context_tokens: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    sources: tuple[Source, ...] = ()
