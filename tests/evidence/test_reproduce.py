"""Papers as experiments: every entry complete, verdicts by rule, what they claim comes out as noted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from windtunnel.cli.main import app
from windtunnel.errors import SpecError
from windtunnel.evidence import experiment
from windtunnel.evidence.claims import ClaimResult, PaperResult
from windtunnel.evidence.experiment import Claim, paper, paper_names, verdict
from windtunnel.evidence.experiment_service import slowest_average_s
from windtunnel.evidence.reproduce import Entry, entries, find, reproduce
from windtunnel.report.gallery import band, gallery_html
from windtunnel.report.gallery_text import gallery_record, gallery_text
from windtunnel.search.serve import serve
from windtunnel.specs.assemble import load_deployment
from windtunnel.workload.table import request_table

FIRST = {1, 76, 131, 82, 80, 164, 109, 128}
QUICK = ("skipdecode", "pearl", "finequant")


def test_the_first_eight_papers_are_there() -> None:
    ids = [entry.id for entry in entries()]
    assert set(ids) >= FIRST
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", paper_names())
def test_every_claim_is_complete(name: str) -> None:
    found = paper(name)
    assert found.name == name
    assert found.url.startswith("https://")
    for claim in found.claims:
        assert claim.where, claim.claim
        if claim.expected == "quoted":
            assert not claim.figure, "a quoted claim is not computed"
            continue
        assert math.isfinite(claim.low) or math.isfinite(claim.high), claim.claim
        assert claim.low <= claim.published <= claim.high, claim.claim
        assert claim.expected == "reproduced" or claim.analysis, f"no analysis of a miss: {claim.claim}"


@pytest.mark.parametrize("name", QUICK)
def test_quick_papers_come_out_as_noted(name: str) -> None:
    (done,) = reproduce(find([name])).papers
    assert {c.claim: c.verdict for c in done.claims} == {c.claim: c.expected for c in done.claims}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(paper_names()) - set(QUICK)))
def test_other_papers_come_out_as_noted(name: str) -> None:
    (done,) = reproduce(find([name])).papers
    assert {c.claim: c.verdict for c in done.claims} == {c.claim: c.expected for c in done.claims}


def test_the_verdict_follows_the_band() -> None:
    ratio = Claim(
        claim="twice", where="abstract", figure="makespan", baseline={}, published=2.0, low=1.8, high=2.2,
        expected="reproduced",
    )  # fmt: skip
    assert [verdict(ratio, ours) for ours in (1.8, 2.2)] == ["reproduced"] * 2
    assert [verdict(ratio, ours) for ours in (1.2, 5.0)] == ["partly"] * 2
    assert [verdict(ratio, ours) for ours in (0.9, math.nan)] == ["contradicted"] * 2
    absolute = ratio.model_copy(update={"baseline": None})
    assert verdict(absolute, 1.7) == "contradicted"


def test_papers_are_found_by_number_and_name_and_each_once() -> None:
    assert [entry.name for entry in find(["109", "SkipDecode", "pearl"])] == ["skipdecode", "pearl"]
    with pytest.raises(SpecError) as caught:
        find(["4711", "sarathy"])
    assert len(caught.value.problems) == 2
    assert "did you mean 'sarathi'?" in str(caught.value)


def test_an_interrupted_run_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = experiment.run_paper

    def stops(name: str) -> PaperResult:
        if name == "pearl":
            raise KeyboardInterrupt
        return usual(name)

    monkeypatch.setattr(experiment, "run_paper", stops)
    told: list[tuple[int, int, str]] = []
    done = reproduce(find(["skipdecode", "pearl", "finequant"]), lambda *told_now: told.append(told_now))
    assert [one.id for one in done.papers] == [109]
    assert done.missing == 2
    assert told == [(0, 3, "109 skipdecode"), (1, 3, "128 pearl")]
    assert "2 papers were not run" in gallery_text(done.papers, done.missing)


def result(ours: float, expected: str = "reproduced") -> PaperResult:
    claim = ClaimResult("<b>Twice</b> as fast", "table 1", "here", 2.0, ours, 1.8, math.inf, "reproduced", "quoted", "")
    claim = replace(claim, expected=expected, verdict="reproduced" if ours >= 1.8 else "partly")  # type: ignore[arg-type]
    return PaperResult(7, "A & B", "https://example.org/?a=1&b=2", (claim,))


def test_the_page_is_whole_and_escaped() -> None:
    page = gallery_html([result(1.9), result(1.2)])
    assert "&lt;b&gt;Twice&lt;/b&gt;" in page
    assert "<b>Twice" not in page
    assert "A &amp; B" in page
    assert "at least 1.8" in page
    assert 'src="http' not in page
    assert band(result(1.9).claims[0]) == "at least 1.8"


def test_text_tells_what_changed_and_why_a_claim_misses() -> None:
    said = gallery_text([result(1.2)])
    assert "Why not:" in said
    assert "Unexpected:" in said
    assert "Unexpected" not in gallery_text([result(1.9)])
    record = gallery_record([result(1.2)])
    assert record["papers"][0]["verdict"] == "partly"


def test_the_command_lists_runs_and_refuses(tmp_path: object) -> None:
    run = CliRunner()
    listed = run.invoke(app, ["reproduce", "--list", "--json", "-"])
    assert listed.exit_code == 0
    assert {entry["id"] for entry in json.loads(listed.stdout)} >= FIRST
    done = run.invoke(app, ["reproduce", "109", "--json", "-"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["papers"][0]["id"] == 109
    assert run.invoke(app, ["reproduce"]).exit_code == 2
    assert run.invoke(app, ["reproduce", "0"]).exit_code == 2


def test_entries_are_sorted_and_know_what_they_are_about() -> None:
    found = entries()
    assert [entry.id for entry in found] == sorted(entry.id for entry in found)
    assert isinstance(found[0], Entry)
    assert {entry.training for entry in found} == {True, False}


def test_the_slowest_average_smooths_a_single_stall() -> None:
    deployment = load_deployment({"model": "llama-3.1-8b", "accelerator": "a100-80g-sxm", "engine": "ideal"})
    table = request_table([0.0, 0.05], [64, 4000], [40, 2])
    run = serve(deployment, table, record_steps=True).simulation
    worst_gap = slowest_average_s(run, 1)  # a span of one token is the gap itself
    smoothed = slowest_average_s(run, 16)
    assert np.all(smoothed <= worst_gap + 1e-12)
    assert smoothed[0] < 0.5 * worst_gap[0]
