"""Papers on training: every claim comes out as the catalogue says, and misses are explained."""

from __future__ import annotations

import math

import pytest

from windtunnel.errors import SpecError
from windtunnel.evidence.training_papers import TrainingClaim, paper_names, run_paper, training_paper, verdict_of

IDS = {18, 35, 40, 47, 66, 105, 146, 237, 292}


def test_the_papers_are_those_of_the_list() -> None:
    assert {training_paper(name).id for name in paper_names()} == IDS


@pytest.mark.parametrize("name", paper_names())
def test_claims_come_out_as_noted(name: str) -> None:
    for outcome in run_paper(name):
        assert outcome.verdict == outcome.claim.expected, (outcome.claim.claim, outcome.value)
        assert math.isnan(outcome.value) == (outcome.claim.expected == "quoted")


@pytest.mark.parametrize("name", paper_names())
def test_what_is_not_reproduced_is_explained(name: str) -> None:
    for claim in training_paper(name).claims:
        assert claim.expected == "reproduced" or claim.analysis, claim.claim


def test_an_unknown_figure_and_an_unknown_paper_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'tokens_per_s'"):
        TrainingClaim(claim="x", where="y", figure="tokens_per_sec", published=1.0, expected="reproduced")
    with pytest.raises(SpecError, match="did you mean 'ulysses'"):
        training_paper("ulises")


def test_bounds_and_comparisons() -> None:
    below = TrainingClaim(claim="", where="", figure="fits", published=2.0, bound="at most", expected="reproduced")
    assert below.bound == "at most"
    fuyou = {outcome.claim.claim: outcome for outcome in run_paper("fuyou")}
    assert fuyou["with ZeRO-Infinity it does not"].value == 0


@pytest.mark.parametrize(
    ("published", "value", "verdict"),
    [
        (1.04, 1.0, "contradicted"),  # within 5 % of the value, but without the gain
        (1.04, 1.015, "partly"),
        (1.04, 1.03, "reproduced"),
        (1.04, 1.08, "partly"),
        (0.9, 0.98, "partly"),
        (2.0, 1.95, "reproduced"),
        (2.0, 1.5, "partly"),
        (2.0, 0.9, "contradicted"),
        (1.0, 0.98, "reproduced"),
    ],
)
def test_a_comparison_must_show_half_of_its_effect(published: float, value: float, verdict: str) -> None:
    claim = TrainingClaim(
        claim="x", where="y", figure="mfu", published=published, band=0.05, baseline={}, expected="reproduced"
    )
    assert verdict_of(claim, value) == verdict
