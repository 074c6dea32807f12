"""Fit engines' overheads and kernel factors to published results: a developer's tool.

    python -m windtunnel.evidence.fit_engines SERVING.csv [INFERENCEX.csv ...] [--preset NAME ...] [--write]

For each group of presets in `catalogue/evidence/engine_fits.yaml` it takes the rows of split `fit`
(and tier A where rows have one) that are about them and minimises

    sum of soft-L1(log(predicted / measured)) + sum of (log(constant / start) / log(weak))^2

over the constants, in logarithms. Rows weigh so that each (model, accelerator, metric) counts alike.
The penalty keeps what the rows say nothing about where it was. With `--write` the constants, the
number of rows and the error over groups of rows left out go into the engines' files.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from windtunnel.errors import SpecError
from windtunnel.evidence.outcomes import predict
from windtunnel.evidence.scenario import Claim
from windtunnel.evidence.table import read_table
from windtunnel.evidence.validate import claims_from
from windtunnel.specs.engine import HOST_TIMES, EngineSpec, KernelFactors
from windtunnel.specs.fields import Seconds, Spec
from windtunnel.specs.load import build, catalogue_folder, resolve

Floats = npt.NDArray[np.float64]

ENERGY = ("mean_w", "mean_w_per_accelerator", "power_share", "joules_per_output_token")
"""Values that the energy model's constants decide: engines' constants are fitted to times alone."""
SOFT = 0.08
"""Residual of the logarithm beyond which a row pulls like its size, not its square."""
STEP = 0.15
"""Step of the slopes, in units of what a constant is deemed likely to move: well above the simulation's own jumps."""
FOLDS = 4
MOST_SCENARIOS = 80
"""Set-ups used of a fit with more: every n-th, so that all groups stay."""


class EngineFit(Spec):
    """One fit: presets that share rows and constants."""

    presets: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    start: dict[str, Seconds] = {}
    tiers: tuple[str, ...] = ("A",)
    without: tuple[str, ...] = ()
    """Kinds of rows, as beginnings of model|accelerator|metric|prompt, that say nothing of these constants; the file
    says why."""
    firm: bool = False
    """Whether kernel factors stray half as far, in logarithms: better on groups left out where rows are few."""
    most: int = MOST_SCENARIOS
    """Set-ups used, where they take long to simulate."""


class Defaults(Spec):
    """What fits have in common."""

    parameters: tuple[str, ...]
    start: dict[str, Seconds]
    weak: dict[str, float]


class HostFit(Spec):
    """A server whose host is timed by an engine that was measured on no other (see `fit_hosts`)."""

    node: str
    preset: str
    """The engine measured there."""
    like: str
    """The preset whose host times it is taken to have elsewhere."""


class EngineFits(Spec):
    """The packaged list of fits."""

    defaults: Defaults
    fits: tuple[EngineFit, ...]
    hosts: tuple[HostFit, ...] = ()


@lru_cache(maxsize=1)
def engine_fits() -> EngineFits:
    """The packaged list of fits."""
    text = (catalogue_folder("evidence") / "engine_fits.yaml").read_text(encoding="utf-8")
    return build(EngineFits, yaml.safe_load(text), "catalogue/evidence/engine_fits.yaml")


@dataclass(frozen=True, slots=True)
class Fitted:
    """The outcome of a fit.

    Attributes:
        constants: by parameter.
        rows, groups: fitted to.
        before, after: median absolute error of the rows.
        held_out: the same over groups that the constants had not seen, by folds.
        growth: how much further 80 % of those rows stray than under constants fitted to them too.
    """

    constants: dict[str, float]
    rows: int
    groups: int
    before: float
    after: float
    held_out: float
    growth: float = math.nan


def with_constants(engine: EngineSpec, constants: dict[str, float]) -> EngineSpec:
    """The engine with some of its host times and kernel factors replaced."""
    host = {name: value for name, value in constants.items() if name in HOST_TIMES}
    factors = {name: value for name, value in constants.items() if name not in HOST_TIMES}
    return engine.model_copy(update={**host, "kernels": engine.kernels.model_copy(update=factors)})


def start_of(one: EngineFit) -> dict[str, float]:
    """Where a fit starts: the listed host times, all kernels as calibrated."""
    defaults = engine_fits().defaults
    parameters = [*(one.parameters or defaults.parameters), *one.add]
    neutral, host = KernelFactors(), {**defaults.start, **one.start}
    return {name: host[name] if name in host else float(getattr(neutral, name)) for name in parameters}


@dataclass(frozen=True, slots=True)
class Problem:
    """The rows of a fit and their weights."""

    claims: tuple[Claim, ...]
    weights: Floats
    groups: tuple[str, ...]

    def part(self, keep: npt.NDArray[np.bool_]) -> Problem:
        """The rows where `keep` holds."""
        chosen = np.flatnonzero(keep)
        return Problem(
            tuple(self.claims[i] for i in chosen), self.weights[chosen], tuple(self.groups[i] for i in chosen)
        )

    def residuals(self, constants: dict[str, float]) -> Floats:
        """log(predicted / measured) of every row; nan where the set-up cannot run."""
        seen: dict[object, Any] = {}
        found = np.full(len(self.claims), np.nan)
        for i, claim in enumerate(self.claims):
            assert claim.scenario is not None
            if claim.scenario not in seen:
                engine = with_constants(resolve("engines", claim.scenario.engine), constants)
                seen[claim.scenario] = predict(claim.scenario, engine).values
            value = seen[claim.scenario].get(claim.value)
            if value:
                found[i] = math.log(claim.factor * value / claim.measured)
        return found


def problem_of(
    claims: Sequence[Claim], presets: Sequence[str], without: Sequence[str] = (), most: int = MOST_SCENARIOS
) -> Problem:
    """The rows about some presets, thinned, weighed by group."""
    mine = [c for c in claims if c.scenario is not None and c.scenario.engine in presets]
    mine = [c for c in mine if not _kind(c).startswith(tuple(without))]
    mine.sort(key=lambda c: (c.tags["gpu"], c.tags["model"], c.id))
    scenarios = list(dict.fromkeys(c.scenario for c in mine))
    every = max(1, -(-len(scenarios) // most))
    kept = set(scenarios[::every])
    mine = [c for c in mine if c.scenario in kept]
    groups = tuple(f"{c.tags['model']}|{c.tags['gpu']}" for c in mine)
    kinds = [f"{g}|{c.tags['metric']}" for g, c in zip(groups, mine, strict=True)]
    counted = Counter(kinds)
    weights = np.array([1.0 / math.sqrt(counted[kind]) for kind in kinds])
    return Problem(tuple(mine), weights / weights.mean() if len(mine) else weights, groups)


def _kind(claim: Claim) -> str:
    assert claim.scenario is not None
    return "|".join([*(claim.tags[name] for name in ("model", "gpu", "metric")), str(claim.scenario.input_tokens)])


def minimise(problem: Problem, start: dict[str, float], weak: dict[str, float], rounds: int = 6) -> dict[str, float]:
    """The constants that fit a problem's rows best, starting from `start`: Gauss-Newton on the loss's square root."""
    names = list(start)
    origin = np.log([start[name] for name in names])
    scale = np.log([weak[name] for name in names])

    def constants(point: Floats) -> dict[str, float]:
        return {name: float(v) for name, v in zip(names, np.exp(origin + point * scale), strict=True)}

    def rows(point: Floats) -> Floats:
        r = problem.residuals(constants(point))
        # Set-ups that cannot run say nothing of the constants.
        r = np.where(np.isfinite(r), r, 0.0)
        soft = np.sqrt(1.0 + (r / SOFT) ** 2) - 1.0
        return np.concatenate([np.sign(r) * np.sqrt(2.0 * problem.weights * soft), point])

    point, damping = np.zeros(len(names)), 0.1
    best = rows(point)
    for _ in range(rounds):
        slopes = np.stack([(rows(point + step) - best) / STEP for step in STEP * np.eye(len(names))], axis=1)
        normal, pull = slopes.T @ slopes, slopes.T @ best
        before = float(best @ best)
        for _ in range(4):
            move = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -pull)
            trial = np.clip(point + np.clip(move, -1.0, 1.0), -3.0, 3.0)
            found = rows(trial)
            if found @ found < before:
                point, best, damping = trial, found, damping / 3.0
                break
            damping *= 4.0
        if before - float(best @ best) < 2e-3 * before:
            break
    return constants(point)


def fit(claims: Sequence[Claim], one: EngineFit, say: Callable[[str], None], folds: int = FOLDS) -> Fitted | None:
    """Fit the constants of some presets; None without rows."""
    defaults = engine_fits().defaults
    mine = [c for c in claims if c.tags["tier"] in ("", *one.tiers) and c.value not in ENERGY]
    problem = problem_of(mine, one.presets, one.without, one.most)
    if not problem.claims:
        return None
    start = start_of(one)
    weak = {name: defaults.weak[name] ** (0.5 if one.firm and name not in HOST_TIMES else 1.0) for name in start}
    constants = minimise(problem, start, weak)
    seen, held = problem.residuals(constants), held_out(problem, start, weak, folds)
    result = Fitted(
        constants=constants,
        rows=len(problem.claims),
        groups=len(set(problem.groups)),
        before=_median(problem.residuals(start)),
        after=_median(seen),
        held_out=_median(held),
        growth=_spread(held) / _spread(seen),
    )
    say(f"{', '.join(one.presets)}: {result}")
    return result


def held_out(problem: Problem, start: dict[str, float], weak: dict[str, float], folds: int) -> Floats:
    """log(predicted / measured) of every row under constants that its group (model and accelerator) took no part in."""
    names = sorted(set(problem.groups))
    found: list[float] = []
    for fold in range(min(folds, len(names)) if len(names) > 1 else 0):
        out = np.array([names.index(group) % folds == fold for group in problem.groups])
        if out.any() and not out.all():
            learnt = minimise(problem.part(~out), start, weak, rounds=4)
            found += list(problem.part(out).residuals(learnt))
    return np.array(found)


def _spread(residuals: Floats) -> float:
    """What 80 % of residuals stay within."""
    good = residuals[np.isfinite(residuals)]
    return float(np.quantile(np.abs(good), 0.8)) if len(good) else math.nan


def _median(residuals: Floats) -> float:
    good = residuals[np.isfinite(residuals)]
    return float(np.median(np.abs(np.expm1(good)))) if len(good) else math.nan


def write(preset: str, fitted: Fitted, sources: str, date: str, folder: Path) -> None:
    """Put fitted constants into an engine's file, with where they come from."""
    path = folder / f"{preset}.yaml"
    text = path.read_text(encoding="utf-8")
    host = {name: fitted.constants[name] for name in HOST_TIMES if name in fitted.constants}
    for name, value in host.items():
        line = f"{name}: {value:.3g} s"
        text, found = re.subn(rf"^{name}:.*$", line, text, flags=re.M)
        if not found:
            text = text.replace("sources:\n", f"{line}\nsources:\n", 1)
    fixed = (
        "expands_weights", "narrow_sums", "score_bytes", "packed_groups", "converts", "elementwise_bytes",
        "elementwise_kernels", "apart", "decode_kernels", "fused",
    )  # fmt: skip
    held = yaml.safe_load(text).get("kernels") or {}
    fitted_kernels = any(name not in HOST_TIMES for name in fitted.constants)
    kept = {name: value for name, value in held.items() if name in fixed or not fitted_kernels}
    factors = {name: round(v, 3) for name, v in fitted.constants.items() if name not in HOST_TIMES}
    body = ", ".join(f"{name}: {str(v).lower() if v is True else v}" for name, v in (kept | factors).items())
    text = re.sub(r"^kernels:.*\n", "", text, flags=re.M)
    text = text.replace("sources:\n", f"kernels: {{{body}}}\nsources:\n", 1)
    text = re.sub(r"^  - \{fields: \[[^\]]*\], kind: calibrated,.*\n", "", text, flags=re.M)
    fields = ", ".join([*host, *(["kernels"] if fitted_kernels else [])])
    said = (
        f"fitted by windtunnel.evidence.fit_engines to {fitted.rows} published figures in {fitted.groups} groups "
        f"({sources}); median error {fitted.after:.1%}"
    )
    if math.isfinite(fitted.held_out):
        said += f", {fitted.held_out:.1%} on groups left out"
    line = f'  - {{fields: [{fields}], kind: calibrated, source: "{said}", date: "{date}"}}\n'
    path.write_text(text.replace("sources:\n", f"sources:\n{line}", 1), encoding="utf-8")


def source_names(claims: Sequence[Claim], presets: Sequence[str]) -> str:
    """The sources of a fit's rows."""
    names = {c.tags["source"] for c in claims if c.scenario is not None and c.scenario.engine in presets}
    return ", ".join(sorted(names))


def fit_claims(paths: Sequence[Path]) -> list[Claim]:
    """The claims that fits may use: split `fit`; of which tiers, each fit says."""
    found: list[Claim] = []
    for path in paths:
        table = read_table(path)
        found += claims_from(table.keep(split="fit"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel.evidence.fit_engines", description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--date", default="2026-11")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    claims = fit_claims(given.tables)
    chosen = [one for one in engine_fits().fits if not given.preset or set(given.preset) & set(one.presets)]
    if not chosen:
        raise SpecError(f"no fit is listed for {', '.join(given.preset)}")
    folder = Path(str(catalogue_folder("engines")))
    grown: list[tuple[float, int]] = []
    for one in chosen:
        fitted = fit(claims, one, print, given.folds)
        if fitted is not None and math.isfinite(fitted.growth):
            grown.append((fitted.growth, fitted.rows))
        if fitted is not None and given.write:
            for preset in one.presets:
                write(preset, fitted, source_names(claims, one.presets), given.date, folder)
    if grown:
        weights = [rows for _, rows in grown]
        print(f"growth of bands on groups left out: {np.average([g for g, _ in grown], weights=weights):.2f}")
    return 0


def errors_by(claims: Sequence[Claim], key: Callable[[Claim], str]) -> dict[str, float]:
    """Median absolute error by a key of the claims, with the presets as they are."""
    grouped: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        if claim.scenario is not None:
            grouped[key(claim)].append(claim)
    found = {}
    for name, members in grouped.items():
        problem = Problem(tuple(members), np.ones(len(members)), ("",) * len(members))
        found[name] = _median(problem.residuals({}))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
