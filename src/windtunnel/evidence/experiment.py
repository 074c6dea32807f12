"""A paper on serving as an experiment: a setup, claims that change it, and the baseline each is held against."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from pydantic import Field, model_validator

from windtunnel.errors import InfeasibleError, nearest
from windtunnel.evidence.claims import ClaimResult, PaperResult, Verdict
from windtunnel.evidence.experiment_figures import FIGURES
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.fields import Spec
from windtunnel.specs.load import build, merged, names, read_catalogue_yaml
from windtunnel.techniques.apply import with_techniques

KIND = "papers"
_DEPLOYMENT = ("model", "accelerator", "node", "plan", "engine")


class Claim(Spec):
    """One published figure.

    Attributes:
        claim, where: what the paper says, in our words, and where.
        figure: what is computed (`windtunnel.evidence.experiment_figures`); empty for quoted claims.
        change: fields of the setup that this claim changes.
        baseline: fields that its baseline changes besides; when given, the claim is a ratio.
        against: figure of the baseline, where it is another one than the variant's.
        inverse: whether the ratio is baseline over variant (times and latencies: a speed-up).
        published: the paper's value; low, high: the band that counts as reproduced.
        expected: what comes out, kept so that a change is noticed.
        analysis: conditions that are ours, and why it comes out as it does.
    """

    claim: str
    where: str
    figure: str = ""
    change: dict[str, Any] = {}
    baseline: dict[str, Any] | None = None
    against: str = ""
    inverse: bool = False
    published: float
    low: float = -math.inf
    high: float = math.inf
    expected: Verdict
    analysis: str = ""

    @model_validator(mode="after")
    def _known(self) -> Claim:
        if self.expected == "quoted":
            return self
        for name in (self.figure, self.against or self.figure):
            if name not in FIGURES:
                hint = nearest(name, FIGURES)
                raise ValueError(f"no figure {name!r}" + (f", did you mean {hint!r}?" if hint else ""))
        return self


class Paper(Spec):
    """A paper, its setup and its claims.

    `setup` holds a deployment (`model`, `accelerator`, `plan`, `engine`, `techniques`) and what figures need
    besides: `workload`, `slo`, `batch`.
    """

    id: int = Field(description="its number in the list of papers")
    name: str
    title: str
    url: str
    date: str
    setup: dict[str, Any]
    claims: tuple[Claim, ...]


class Setup:
    """A setup ready to run: the deployment with its techniques, and the rest by name."""

    def __init__(self, fields: dict[str, Any]) -> None:
        deployment: dict[str, Any] = {key: fields[key] for key in _DEPLOYMENT if key in fields}
        base = load_deployment(deployment)
        self.deployment: DeploymentSpec = with_techniques(base, tuple(fields.get("techniques", ())))
        self.fields = fields

    def workload(self) -> dict[str, Any]:
        """The workload's mapping."""
        found: dict[str, Any] = self.fields["workload"]
        return found


def paper_names() -> tuple[str, ...]:
    """Names of the papers on serving."""
    return names(KIND)


@cache
def paper(name: str) -> Paper:
    """A paper of the catalogue."""
    return build(Paper, read_catalogue_yaml(KIND, name), f"catalogue/papers/{name}.yaml")


def run_paper(name: str) -> PaperResult:
    """A paper with all its claims run."""
    found = paper(name)
    return PaperResult(found.id, found.title, found.url, tuple(run_claim(found, claim) for claim in found.claims))


def run_claim(of: Paper, claim: Claim) -> ClaimResult:
    """One claim, run."""
    ours = math.nan if claim.expected == "quoted" else _ours(of, claim)
    return ClaimResult(
        claim=claim.claim,
        where=claim.where,
        conditions=_conditions(merged(of.setup, claim.change)),
        published=claim.published,
        ours=ours,
        low=claim.low,
        high=claim.high,
        verdict="quoted" if claim.expected == "quoted" else verdict(claim, ours),
        expected=claim.expected,
        analysis=claim.analysis,
    )


def verdict(claim: Claim, ours: float) -> Verdict:
    """Inside the band, on the same side of 1 (ratios), or neither."""
    if claim.low <= ours <= claim.high:
        return "reproduced"
    same_way = claim.baseline is not None and (ours - 1.0) * (claim.published - 1.0) > 0
    return "partly" if same_way else "contradicted"


def _ours(of: Paper, claim: Claim) -> float:
    figure = FIGURES[claim.figure]
    fields = merged(of.setup, claim.change)
    value = _value(figure, fields)
    if claim.baseline is None:
        return value
    base = _value(FIGURES[claim.against or claim.figure], merged(fields, claim.baseline))
    if claim.inverse:
        return base / value if value else math.inf
    return value / base if base else math.inf


def _value(figure: Any, fields: dict[str, Any]) -> float:
    try:
        return float(figure(Setup(fields)))
    except InfeasibleError:
        return math.nan


def _conditions(fields: dict[str, Any]) -> str:
    deployment = load_deployment(
        {key: fields[key] for key in ("model", "accelerator", "plan", "engine") if key in fields}
    )
    plan = deployment.plan
    said = f"{deployment.model.name} on {plan.accelerators} x {deployment.accelerator.name}, {plan.label()}"
    workload = fields.get("workload", {}).get("title", "")
    return f"{said}; {workload}" if workload else said
