"""Run the catalogue's papers: all of them or some by id or name, with progress, until done or interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.evidence import experiment, training_papers
from windtunnel.evidence.claims import ClaimResult, PaperResult
from windtunnel.evidence.training_papers import ClaimOutcome, TrainingClaim, TrainingPaper

Progress = Callable[[int, int, str], None]
"""Called with (claims done, all claims, what is being run)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A paper that can be run: its number in the list of papers, its name in the catalogue, and about what it is."""

    id: int
    name: str
    title: str
    training: bool


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came out.

    Attributes:
        papers: those that were run to their end, in the order asked for.
        missing: papers that were not, as the user stopped the run.
    """

    papers: tuple[PaperResult, ...]
    missing: int = 0


def entries() -> tuple[Entry, ...]:
    """Every paper with an experiment, by number."""
    found = [_entry(experiment.paper(name), name, False) for name in experiment.paper_names()]
    found += [_entry(training_papers.training_paper(name), name, True) for name in training_papers.paper_names()]
    return tuple(sorted(found, key=lambda entry: entry.id))


def _entry(paper: experiment.Paper | TrainingPaper, name: str, training: bool) -> Entry:
    return Entry(paper.id, name, paper.title, training)


def find(asked: Sequence[str]) -> tuple[Entry, ...]:
    """The papers asked for by id or name, each once.

    Raises:
        SpecError: those that there are no experiments for, all together.
    """
    known = {key: entry for entry in entries() for key in (str(entry.id), entry.name)}
    unknown = [text for text in asked if text.casefold() not in known]
    if unknown:
        hint = f"an id or a name of {len(known) // 2} papers (`windtunnel reproduce --list` shows them)"
        raise SpecError(
            [Problem("there is no experiment for this paper", "ID", "", t, hint, nearest(t, known)) for t in unknown]
        )
    return tuple(dict.fromkeys(known[text.casefold()] for text in asked))


def in_full(entry: Entry) -> experiment.Paper | TrainingPaper:
    """What the catalogue holds of a paper."""
    return training_papers.training_paper(entry.name) if entry.training else experiment.paper(entry.name)


def reproduce(papers: Sequence[Entry], progress: Progress | None = None) -> Reproduction:
    """Run papers one after the other. Ctrl-C ends the run with the papers that are done.

    Args:
        papers: from `find` or `entries`.
        progress: told about every paper before it is run.
    """
    done: list[PaperResult] = []
    try:
        for entry in papers:
            if progress is not None:
                progress(len(done), len(papers), f"{entry.id} {entry.name}")
            done.append(_training(entry) if entry.training else experiment.run_paper(entry.name))
    except KeyboardInterrupt:
        return Reproduction(tuple(done), len(papers) - len(done))
    if progress is not None:
        progress(len(done), len(papers), "done")
    return Reproduction(tuple(done))


def _training(entry: Entry) -> PaperResult:
    """A paper on training, run, in the form that all papers share."""
    paper = training_papers.training_paper(entry.name)
    claims = tuple(_claim(paper, outcome) for outcome in training_papers.run_paper(entry.name))
    return PaperResult(paper.id, paper.title, paper.url, claims)


def _claim(paper: TrainingPaper, outcome: ClaimOutcome) -> ClaimResult:
    claim = outcome.claim
    low, high = _band(claim)
    setup = paper.setup.over(claim.change)
    return ClaimResult(
        claim=claim.claim,
        where=claim.where,
        conditions=f"{setup.model} on {setup.gpus} x {setup.accelerator}, {setup.preset}, "
        f"{setup.global_batch_sequences:,} sequences of {setup.seq_len:,} tokens",
        published=claim.published,
        ours=outcome.value,
        low=low,
        high=high,
        verdict=outcome.verdict,
        expected=claim.expected,
        analysis=claim.analysis,
    )


def _band(claim: TrainingClaim) -> tuple[float, float]:
    """Values that count as reproduced."""
    if claim.bound == "at most":
        return -math.inf, claim.published
    if claim.bound == "at least":
        return claim.published, math.inf
    spread = claim.band * abs(claim.published)
    return claim.published - spread, claim.published + spread
