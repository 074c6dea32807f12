"""Fit the energy model's constants to published board powers: a developer's tool.

    python -m windtunnel.evidence.fit_energy SERVING.csv [--write]

Takes the rows of split `fit` that state a mean power and whose set-up is expressed, and minimises

    sum of soft-L1(log(predicted / measured))

over `compute_share`, `active_share`, `byte_j` and the `byte_j` of architectures apart in `catalogue/energy.yaml`.
Rows weigh so that each (model, accelerator, format) counts alike. Where a run's throughput was measured too, FLOPs
and bytes go at that speed: what the time model gets wrong is not the energy model's to repair. With `--write` the
constants, the number of rows and the errors go into the catalogue.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from windtunnel.cost.energy import Energy, energy_of, energy_shares
from windtunnel.evidence.batches import static_batch, steady_batch
from windtunnel.evidence.outcomes import deployment_of
from windtunnel.evidence.scenario import Claim, Scenario
from windtunnel.evidence.steps import StepPricer, step_pricer
from windtunnel.evidence.table import read_table
from windtunnel.evidence.validate import claims_from
from windtunnel.specs.load import catalogue_folder

Floats = npt.NDArray[np.float64]

POWERS = ("mean_w", "power_share")
NAMES = ("compute_share", "active_share", "byte_j")
APART = ("ampere",)
"""Architectures whose bytes are fitted on their own; `compute_share` is held: few of their rows compute much."""
SOFT = 0.08
"""Residual of the logarithm beyond which a row pulls like its size, not its square."""
FOLDS = 4
WITHOUT = ("Qwen3-235B-A22B|fp8", "Qwen 3 Coder 480B A35B FP8|fp8")
"""Not used: block-scaled 8-bit experts, as vLLM 0.11 computes them, draw near the limit at a fraction of the speed."""
SMALL = 1e-6
"""Unit constants are this small, so that no limit cuts what they find."""


@dataclass(frozen=True, slots=True)
class Power:
    """A measured mean power of one accelerator, and what it is made of.

    Attributes:
        claim: the row.
        architecture: of the accelerator.
        measured_w: of one accelerator.
        idle_w, envelope_w: of the accelerator.
        compute: executed FLOPs per second over the peak.
        bytes_per_s: read and written.
        busy: share of the time in which kernels run.
    """

    claim: Claim
    architecture: str
    measured_w: float
    idle_w: float
    envelope_w: float
    compute: float
    bytes_per_s: float
    busy: float


def powers_of(claims: Sequence[Claim]) -> list[Power]:
    """The measured powers among the claims, with their parts."""
    speeds = {
        c.scenario: c.measured / c.factor for c in claims if c.scenario is not None and c.value == "output_tokens_per_s"
    }
    found = []
    for claim in claims:
        scenario = claim.scenario
        if scenario is None or claim.value not in POWERS or scenario.mode not in ("static", "steady"):
            continue
        accelerator = deployment_of(scenario).accelerator
        watts = claim.measured / claim.factor
        if claim.value == "mean_w":
            watts /= scenario.plan.accelerators
        else:
            watts *= accelerator.max_w
        parts = _parts(scenario, speeds.get(scenario, math.nan))
        envelope = accelerator.max_w - accelerator.idle_w
        found.append(Power(claim, accelerator.architecture, watts, accelerator.idle_w, envelope, *parts))
    return found


def _parts(scenario: Scenario, measured_per_s: float) -> tuple[float, float, float]:
    """(share of peak FLOPs, bytes per second, busy share), FLOPs and bytes at the measured speed where it is known."""
    pricer = step_pricer(deployment_of(scenario))
    none = replace(
        energy_of(pricer.device, pricer.links.tensor), byte_j=0.0, link_byte_j=0.0, compute_w=0.0, active_w=0.0
    )
    units = (replace(none, compute_w=SMALL), replace(none, byte_j=SMALL * 1e-12), replace(none, active_w=SMALL))
    watts, per_s = zip(*(_run(pricer, unit, scenario) for unit in units), strict=True)
    speed = measured_per_s / per_s[0] if measured_per_s == measured_per_s and per_s[0] == per_s[0] else 1.0
    return watts[0] / SMALL * speed, watts[1] / SMALL * 1e12 * speed, min(watts[2] / SMALL, 1.0)


def _run(pricer: StepPricer, constants: Energy, scenario: Scenario) -> tuple[float, float]:
    """(dynamic watts of one accelerator, output tokens per second)."""
    priced = replace(pricer, constants=constants)
    if scenario.mode == "steady":
        values = steady_batch(priced, scenario.batch, scenario.input_tokens, scenario.output_tokens)
    else:
        values = static_batch(priced, int(scenario.batch), scenario.input_tokens, scenario.output_tokens)
    idle_w = pricer.deployment.accelerator.idle_w
    return values["mean_w_per_accelerator"] - idle_w, values.get("output_tokens_per_s", math.nan)


def predicted_w(powers: Sequence[Power], constants: Sequence[float]) -> Floats:
    """Watts of each row's accelerator under (compute_share, active_share, byte_j, byte_j of those apart)."""
    compute_share, active_share, *byte_j = constants
    apart = energy_shares().apart
    share = np.array(
        [apart[p.architecture].compute_share if p.architecture in apart else compute_share for p in powers]
    )
    each = np.array([byte_j[1 + APART.index(p.architecture) if p.architecture in APART else 0] for p in powers])
    idle, envelope = (np.array([getattr(p, name) for p in powers]) for name in ("idle_w", "envelope_w"))
    compute, moved, busy = (np.array([getattr(p, n) for p in powers]) for n in ("compute", "bytes_per_s", "busy"))
    drawn = (share * compute + active_share * busy) * envelope + each * moved
    return np.asarray(idle + np.minimum(drawn, envelope))


def fitted(powers: Sequence[Power]) -> tuple[float, ...]:
    """The constants that fit best."""
    from scipy.optimize import least_squares

    counted = Counter(kind(p.claim) for p in powers)
    weights = np.array([1.0 / math.sqrt(counted[kind(p.claim)]) for p in powers])
    measured: Floats = np.array([p.measured_w for p in powers])

    def residuals(point: Floats) -> Floats:
        return np.asarray(weights * np.log(predicted_w(powers, _constants(point)) / measured))

    start = [1.0, 0.25, 1.0, *(1.0 for _ in APART)]
    best = least_squares(residuals, start, bounds=(0.0, 10.0), loss="soft_l1", f_scale=SOFT)
    return _constants(best.x)


def _constants(point: Floats) -> tuple[float, ...]:
    return float(point[0]), float(point[1]), *(float(value) * 1e-10 for value in point[2:])


def kind(claim: Claim) -> str:
    """What rows that count alike have in common: model, format, accelerator."""
    assert claim.scenario is not None
    return f"{claim.tags['model']}|{claim.scenario.plan.weight_dtype}|{claim.tags['gpu']}"


def errors(powers: Sequence[Power], constants: Sequence[float]) -> Floats:
    """Signed relative errors."""
    measured = np.array([p.measured_w for p in powers])
    return np.asarray(predicted_w(powers, constants) / measured - 1.0)


def held_out(powers: Sequence[Power], folds: int = FOLDS) -> Floats:
    """Errors of (model, format, accelerator) groups under constants that have not seen them."""
    names = sorted({kind(p.claim) for p in powers})
    found: list[float] = []
    for fold in range(folds):
        out = [p for p in powers if names.index(kind(p.claim)) % folds == fold]
        found += list(errors(out, fitted([p for p in powers if names.index(kind(p.claim)) % folds != fold])))
    return np.array(found)


def write(constants: Sequence[float], said: str, path: Path) -> None:
    """Put the constants and where they come from into the catalogue."""
    text = path.read_text(encoding="utf-8")
    for name, value in zip(NAMES, constants, strict=False):
        text = re.sub(rf"^{name}:.*$", f"{name}: {value:.3g}", text, flags=re.M)
    for name, value in zip(APART, constants[len(NAMES) :], strict=True):
        text = re.sub(rf"^(  {name}: .*byte_j: )[^}}]*", rf"\g<1>{value:.3g}", text, flags=re.M)
    text = re.sub(r"(kind: calibrated\n    source: >-\n      ).*\n", rf"\g<1>{said}\n", text)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel.evidence.fit_energy", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    claims = claims_from(read_table(given.table).keep(split="fit"))
    powers = [p for p in powers_of(claims) if not kind(p.claim).startswith(WITHOUT)]
    constants = fitted(powers)
    shares = energy_shares()
    held = [shares.of(name).byte_j for name in ("", *APART)]
    before = errors(powers, (shares.compute_share, shares.active_share, *held))
    after, left_out = errors(powers, constants), held_out(powers)
    said = (
        f"fitted by windtunnel.evidence.fit_energy to {len(powers)} mean board powers of inference, rows of split fit "
        f"(ML.ENERGY v3 on H100 and B200, Splitwise on A100); median error {_median(after):.1%}, "
        f"{_median(left_out):.1%} on groups left out"
    )
    print(dict(zip((*NAMES, *APART), constants, strict=True)), f"before {_median(before):.1%}", said, sep="\n")
    if given.write:
        write(constants, said, Path(str(catalogue_folder("energy.yaml"))))
    return 0


def _median(values: Floats) -> float:
    return float(np.median(np.abs(values)))


if __name__ == "__main__":
    raise SystemExit(main())
