"""What every paper's page has in common: claims with their published figures, and how they came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["reproduced", "partly", "contradicted", "quoted"]
"""`partly`: the effect goes the same way, its size lies outside the band. `quoted`: no performance model can
tell (accuracy, perplexity), so the paper's figure stands alone."""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """One claim, run.

    Attributes:
        claim, where: what the paper says, in our words, and where.
        conditions: model, hardware and workload of the run.
        published, ours: the figures; ours is nan for quoted claims.
        low, high: the band within which ours counts as reproduced.
        verdict: what came out.
        expected: the verdict noted in the catalogue, so that a change is noticed.
        analysis: why it comes out as it does, and what had to be assumed.
    """

    claim: str
    where: str
    conditions: str
    published: float
    ours: float
    low: float
    high: float
    verdict: Verdict
    expected: Verdict
    analysis: str


@dataclass(frozen=True, slots=True)
class PaperResult:
    """A paper with its claims, run."""

    id: int
    title: str
    url: str
    claims: tuple[ClaimResult, ...]

    @property
    def verdict(self) -> Verdict:
        """The weakest verdict of the claims that were run; `quoted` when none was."""
        order: tuple[Verdict, ...] = ("contradicted", "partly", "reproduced")
        for verdict in order:
            if any(claim.verdict == verdict for claim in self.claims):
                return verdict
        return "quoted"
