"""Published claims about training, set beside what the model gives under their conditions.

A claim names a job, a figure of it and, for comparisons, a baseline; the published value and the band
within which it counts as reproduced stand beside it (`catalogue/papers_training/*.yaml`). Claims that
need more than the model has are quoted, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from windtunnel.errors import InfeasibleError, Problem, SpecError, nearest
from windtunnel.evidence.training_figures import FIGURES
from windtunnel.specs.fields import Spec
from windtunnel.specs.load import build, catalogue_folder
from windtunnel.specs.training import TrainingEngine, TrainingJob
from windtunnel.specs.training_check import training_job
from windtunnel.training.presets import preset_plan

Verdict = Literal["reproduced", "partly", "contradicted", "quoted"]


class TrainingSetup(Spec):
    """A job as a paper states it; what it leaves open keeps the preset's or the default value."""

    model: str
    accelerator: str
    node: str = ""
    gpus: int = Field(1, ge=1)
    global_batch_sequences: int = Field(1, ge=1)
    seq_len: int = Field(2048, ge=1)
    preset: str = Field("megatron-lm", description="named plan to start from")
    engine: TrainingEngine | None = None
    plan: dict[str, Any] = Field({}, description="fields of the plan over the preset's")

    def over(self, changes: dict[str, Any]) -> TrainingSetup:
        """This setup with some fields changed; the plan's fields are merged."""
        plan = self.plan | changes.get("plan", {})
        return TrainingSetup(**(self.model_dump() | changes | {"plan": plan}))

    def job(self) -> TrainingJob:
        """The job."""
        plan, engine = preset_plan(self.preset, **self.plan)
        return training_job(
            self.model,
            self.accelerator,
            gpus=self.gpus,
            global_batch_sequences=self.global_batch_sequences,
            seq_len=self.seq_len,
            plan=plan,
            node=self.node or None,
            engine=self.engine or engine,
        )


class TrainingClaim(Spec):
    """One published figure.

    Attributes:
        claim: what the paper says, in our words.
        where: table, figure or section.
        figure: which figure of the job; a ratio to the baseline's when `baseline` is given.
        change: fields of the paper's setup that this claim changes.
        baseline: fields that its baseline changes besides.
        published: the value.
        bound: whether the paper states the value or a limit.
        band: relative deviation within which it counts as reproduced; comparisons must also show half the effect.
        expected: what comes out, kept so that a change is noticed.
        analysis: conditions that are ours, and why it comes out as it does.
    """

    claim: str
    where: str
    figure: str = ""
    change: dict[str, Any] = {}
    baseline: dict[str, Any] | None = None
    published: float
    bound: Literal["equal", "at most", "at least"] = "equal"
    band: float = Field(0.1, ge=0)
    expected: Verdict
    analysis: str = ""

    @model_validator(mode="after")
    def _known(self) -> TrainingClaim:
        if self.expected == "quoted":
            return self
        if self.figure not in FIGURES:
            hint = nearest(self.figure, FIGURES)
            raise ValueError(f"no figure {self.figure!r}" + (f", did you mean {hint!r}?" if hint else ""))
        return self


class TrainingPaper(Spec):
    """A paper and its claims."""

    id: int = Field(description="its number in the list of papers")
    title: str
    url: str
    date: str
    setup: TrainingSetup
    claims: tuple[TrainingClaim, ...]


@dataclass(frozen=True, slots=True)
class ClaimOutcome:
    """What came out of a claim.

    Attributes:
        claim: the claim.
        value: the model's value; NaN for quoted ones.
        verdict: reproduced within the band; partly when a comparison goes the same way; else contradicted.
    """

    claim: TrainingClaim
    value: float
    verdict: Verdict

    @property
    def deviation(self) -> float:
        """Relative to the published value; NaN for quoted ones."""
        return self.value / self.claim.published - 1.0 if self.claim.published else self.value


def paper_names() -> tuple[str, ...]:
    """Names of the papers on training."""
    folder = catalogue_folder("papers_training")
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


@lru_cache(maxsize=32)
def training_paper(name: str) -> TrainingPaper:
    """A paper by name.

    Raises:
        SpecError: there is no such paper.
    """
    known = paper_names()
    if name not in known:
        raise SpecError(Problem("no such paper on training", "", "paper", name, ", ".join(known), nearest(name, known)))
    text = catalogue_folder("papers_training").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return build(TrainingPaper, yaml.safe_load(text), f"catalogue/papers_training/{name}.yaml")


def run_paper(name: str) -> tuple[ClaimOutcome, ...]:
    """All claims of a paper, run."""
    paper = training_paper(name)
    return tuple(run_claim(paper, claim) for claim in paper.claims)


def run_claim(paper: TrainingPaper, claim: TrainingClaim) -> ClaimOutcome:
    """One claim, run."""
    if claim.expected == "quoted":
        return ClaimOutcome(claim, math.nan, "quoted")
    figure = FIGURES[claim.figure]
    setup = paper.setup.over(claim.change)
    value = _value(figure, setup)
    if claim.baseline is not None:
        value = value / _value(figure, setup.over(claim.baseline))
    return ClaimOutcome(claim, value, verdict_of(claim, value))


def _value(figure: Callable[[TrainingJob], float], setup: TrainingSetup) -> float:
    try:
        return figure(setup.job())
    except InfeasibleError:
        return 0.0


def verdict_of(claim: TrainingClaim, value: float) -> Verdict:
    """Within its bound or band; a comparison must show at least half, and at most one and a half, of the effect.

    Without the second rule a band wider than a small gain would call no gain at all a reproduction.
    """
    limits = {"at most": value <= claim.published, "at least": value >= claim.published}
    if claim.bound in limits:
        met = limits[claim.bound]
    else:
        met = abs(value - claim.published) <= claim.band * abs(claim.published) + 1e-12
    if claim.baseline is None or claim.published == 1.0:
        return "reproduced" if met else "contradicted"
    effect = (value - 1.0) / (claim.published - 1.0)
    if met and (claim.bound in limits or 0.5 <= effect <= 1.5):
        return "reproduced"
    return "partly" if effect > 0 else "contradicted"
