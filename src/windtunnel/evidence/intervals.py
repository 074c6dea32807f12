"""Intervals of end-to-end figures by split-conformal prediction, from published results that no figure is scored on.

For a class of figures (its mode, its kind, where the device's constants come from) let r be
measured / predicted over the rows kept for fitting. The 80 % interval of a prediction p is

    [p * q_low(r), p * q_high(r)],      q at the conformal ranks ceil((n + 1) * 0.9) and its mirror

A class with too few rows takes the next wider one: without the provenance, then without the mode, then
all rows. Fits have seen these rows, so their residuals are a little small: `growth` widens them by what
groups left out by the fits lose on average. Devices known by datasheet alone have a class of their own where
rows exist; where none exist the calibrated class's is widened.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import yaml
from pydantic import Field

from windtunnel.evidence.score import Result
from windtunnel.specs.fields import Source, Spec
from windtunnel.specs.load import build, catalogue_folder

LEAST_ROWS = 30
"""Rows below which a class takes the next wider one."""
LEVEL = 0.8
KINDS = {
    "ttft": "latency of the first token",
    "tpot": "time per token",
    "rate": "tokens per second",
    "e2e": "time of a request",
    "power": "watts and joules",
    "training": "training",
}


class Band(Spec):
    """The interval of one class as factors on a prediction."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    rows: int = Field(ge=0)


class EndToEnd(Spec):
    """The packaged bands, `catalogue/evidence/bands.yaml`."""

    growth: float = Field(ge=1, description="factor on the logarithm of a band: groups that no fit has seen")
    growth_by: dict[str, float] = Field({}, description="the same for kinds whose constants few groups were fitted to")
    datasheet: float = Field(ge=1, description="the same where a device is known by its datasheet and has no rows")
    bands: dict[str, Band] = {}
    sources: tuple[Source, ...] = ()


@lru_cache(maxsize=1)
def end_to_end() -> EndToEnd:
    """The packaged bands."""
    text = (catalogue_folder("evidence") / "bands.yaml").read_text(encoding="utf-8")
    return build(EndToEnd, yaml.safe_load(text), "catalogue/evidence/bands.yaml")


def kind_of(metric: str) -> str:
    """The kind of a metric: what its errors have in common."""
    if metric.startswith(("ttft", "first_token", "prefill_latency")):
        return "ttft"
    if metric.startswith(("tpot", "itl", "decode_step", "time_per_generated")):
        return "tpot"
    if metric.startswith("e2e"):
        return "e2e"
    if "power" in metric or "energy" in metric:
        return "power"
    return "rate" if "throughput" in metric else "training"


def classes_of(result: Result) -> tuple[str, ...]:
    """The classes of a prediction, narrowest first."""
    kind = kind_of(result.tag("metric"))
    mode = result.claim.scenario.mode if result.claim.scenario is not None else result.tag("mode")
    engine = result.claim.scenario.engine.split("-")[0] if result.claim.scenario is not None else ""
    return (
        f"{mode} {kind} {engine} {result.provenance}",
        f"{mode} {kind} {result.provenance}",
        f"{mode} {kind}",
        kind,
        "all",
    )


def with_interval(result: Result) -> Result:
    """The result with its 80 % interval; as it is where no class has rows."""
    known = end_to_end()
    for name in classes_of(result):
        band = known.bands.get(name)
        if band is not None:
            wider = result.provenance == "datasheet" and "datasheet" not in name
            growth = known.growth_by.get(kind_of(result.tag("metric")), known.growth)
            power = growth * (known.datasheet if wider else 1.0)
            return replace(result, low=result.predicted * band.low**power, high=result.predicted * band.high**power)
    return replace(result, low=math.nan, high=math.nan)


def bands_of(results: Iterable[Result]) -> dict[str, Band]:
    """The bands of all classes with enough rows."""
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.predicted > 0:
            for name in classes_of(result):
                ratios[name].append(result.claim.measured / result.predicted)
    return {name: band(found) for name, found in sorted(ratios.items()) if len(found) >= LEAST_ROWS}


def growth_of(results: Sequence[Result]) -> float:
    """How much wider bands must be to hold on groups that they were not taken from.

    Each group of rows (a source, a model and an accelerator) is left out in turn, and the bands of the others are
    laid around its predictions. The least factor on the logarithm of a band, from 1 in steps of 0.05, at which they
    hold `LEVEL` of the rows left out.
    """
    by_group: defaultdict[tuple[str, ...], list[Result]] = defaultdict(list)
    for result in results:
        by_group[tuple(result.tag(name) for name in ("source", "model", "gpu"))].append(result)
    lefts = []
    for group, members in by_group.items():
        bands = bands_of(one for other, ones in by_group.items() if other != group for one in ones)
        for result in members:
            found = next((bands[name] for name in classes_of(result) if name in bands), None)
            if found is not None and result.predicted > 0:
                lefts.append(_needed(result.claim.measured / result.predicted, found))
    needed = float(np.quantile(lefts, LEVEL)) if lefts else 1.0
    return max(1.0, math.ceil(needed * 20.0) / 20.0)


def growth_by_freedom(results: Sequence[Result], constants: int) -> float:
    """How much wider bands must be for the constants that were fitted to the same groups.

    n groups to which p constants were fitted leave residuals too small by sqrt((n - p) / n).
    """
    groups = len({tuple(result.tag(name) for name in ("model", "gpu")) for result in results})
    return round(math.sqrt(groups / max(groups - constants, 1)), 3)


def _needed(ratio: float, found: Band) -> float:
    """The factor on a band's logarithm at which it just holds a ratio."""
    if ratio == 1.0:
        return 0.0
    edge = found.high if ratio > 1.0 else found.low
    return math.inf if edge == 1.0 else math.log(ratio) / math.log(edge)


def band(ratios: Sequence[float]) -> Band:
    """The conformal band of measured over predicted: it holds 1, since a prediction lies in its own interval."""
    ordered = np.sort(np.asarray(ratios))
    count = len(ordered)
    rank = min(count, math.ceil((count + 1) * (1.0 + LEVEL) / 2.0))
    low, high = float(ordered[count - rank]), float(ordered[rank - 1])
    return Band(low=round(min(low, 1.0), 4), high=round(max(high, 1.0), 4), rows=count)
