from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from windtunnel.report.train_charts import ladder, memory_by_rank, shown_ranks, time_by_rank
from windtunnel.report.train_page import train_html
from windtunnel.report.train_timeline import timeline_chart, windows
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import training_job
from windtunnel.training.answer import TrainingAnswer
from windtunnel.training.memory import stage_stacks
from windtunnel.training.question import TrainingQuestion
from windtunnel.training.search import price_layout, search_layouts
from windtunnel.training.step import price

VOID = {"meta", "link", "input", "br", "hr", "img"}
URL = re.compile(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.IGNORECASE)


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order; gathers ids and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.loads += [value for key, value in attrs if key in ("src", "href", "action") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def job(model: str = "llama-3.1-8b", gpus: int = 32, batch: int = 64, **plan: Any) -> TrainingJob:
    return training_job(
        model, "h100-sxm", gpus=gpus, global_batch_sequences=batch, seq_len=8192, plan=TrainingPlan(**plan)
    )


def piped(**plan: Any) -> TrainingJob:
    return job(**({"tensor_parallel": 2, "pipeline_parallel": 4, "sequence_parallel": True, "zero_stage": 1} | plan))


@pytest.fixture(scope="module")
def searched() -> TrainingAnswer:
    return search_layouts(
        TrainingQuestion((job(gpus=16),), asked="llama-3.1-8b", tokens=1e12, wanted={"tp_overlap": (False,)})
    )


ANSWERS = ("search", "layout", "one rank", "does not fit", "nothing fits")


@pytest.fixture(scope="module")
def answers(searched: TrainingAnswer) -> dict[str, TrainingAnswer]:
    misfit = price_layout(job("llama-3.1-70b", 64, pipeline_parallel=8))
    return {
        "search": searched,
        "layout": price_layout(piped(), tokens=15e12),
        "one rank": price_layout(job(gpus=8, zero_stage=3, recompute="full")),
        "does not fit": misfit,
        "nothing fits": search_layouts(TrainingQuestion((job("llama-3.1-405b", 8),), asked="llama-3.1-405b")),
    }


def own_part(page: str) -> Iterator[str]:
    """The page without plotly.js, whose source names addresses that it never asks for unless told to."""
    yield from (part for part in re.split(r"<script>", page) if len(part) < 1_000_000)


def charts_of(page: str) -> dict[str, Any]:
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    found: dict[str, Any] = json.loads(data.group(1), parse_constant=lambda name: pytest.fail(name))
    return found


@pytest.mark.parametrize("name", ANSWERS)
def test_the_page_is_whole_and_loads_nothing(name: str, answers: dict[str, TrainingAnswer]) -> None:
    page = train_html(answers[name])
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert parser.loads == ["data:,"]
    for part in own_part(page):
        assert not URL.search(part), URL.search(part)
        assert "fetch(" not in part
    charts = charts_of(page)
    assert charts
    for place, chart in charts.items():
        assert f'id="{place}"' in page
        assert chart["data"]


def test_the_search_shows_the_pick_the_candidates_and_the_commands(searched: TrainingAnswer) -> None:
    page = train_html(searched)
    assert searched.best is not None
    assert f"as {searched.best.label}" in page
    assert page.count('<tr data-outcome="') == len(searched.candidates)
    assert page.count('class="pick"') >= 2
    for engine in ("Megatron-LM", "torchtitan", "DeepSpeed"):
        assert engine in page
    assert "80 % interval" in page
    for one in searched.rejected:
        assert f"{one.layouts:,}" in page


def test_a_layout_that_does_not_fit_is_said_in_the_heading(answers: dict[str, TrainingAnswer]) -> None:
    page = train_html(answers["does not fit"])
    assert "does not fit" in page.split("<h1>")[1].split("</h1>")[0]
    nothing = train_html(answers["nothing fits"])
    assert "<h1>No layout fits</h1>" in nothing
    found = answers["nothing fits"].smallest
    assert found is not None
    assert f"{found.gpus:,} accelerators" in nothing


def test_a_page_without_a_price_leaves_it_out(answers: dict[str, TrainingAnswer]) -> None:
    answer = answers["layout"]
    assert answer.best is not None
    unpriced = replace(answer.best, usd_per_h=float("nan"))
    page = train_html(replace(answer, best=unpriced, candidates=(unpriced,), budget=None))
    assert "per million tokens" not in page
    assert "$nan" not in page


def test_user_text_is_escaped(searched: TrainingAnswer) -> None:
    page = train_html(replace(searched, asked="<script>alert(1)</script>", notes=("</script><b>",)))
    assert "<script>alert(1)" not in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


@pytest.mark.parametrize("plan", [{}, {"recompute": "full"}, {"schedule": "zero-bubble"}, {"overlap_p2p": False}])
def test_the_bars_add_up_to_the_step(plan: dict[str, Any]) -> None:
    step = price(piped(**plan))
    chart = time_by_rank(step)
    unit = 1.0 if step.seconds >= 1.0 else 1e3
    for rank in range(4):
        total = sum(trace["x"][rank] for trace in chart["data"])
        # Parts under a thousandth of the step are left out.
        assert total == pytest.approx(step.seconds * unit, rel=5e-3)
    assert sum(seconds for _, seconds, _ in ladder(step)) == pytest.approx(step.seconds, rel=5e-3)


def test_memory_bars_add_up_to_the_peak() -> None:
    stacks = stage_stacks(piped())
    chart = memory_by_rank(stacks)
    for rank, stack in enumerate(stacks):
        total = sum(trace["x"][rank] for trace in chart["data"])
        assert total == pytest.approx(stack.total_bytes / 1e9, rel=1e-3)


def test_the_fullest_rank_is_always_shown() -> None:
    stacks = stage_stacks(job(gpus=32, pipeline_parallel=32))
    fullest = max(stacks, key=lambda stack: stack.total_bytes)
    assert f"rank {fullest.stage}" in memory_by_rank(stacks)["data"][0]["y"]


def rectangles(chart: dict[str, Any]) -> int:
    return sum(trace["x"].count(None) for trace in chart["data"] if trace.get("fill") == "toself")


def test_the_timeline_draws_every_pass_of_a_short_step() -> None:
    step = price(piped(), timeline=True)
    (whole,) = windows(step)
    assert (whole.start_s, whole.end_s) == (0.0, step.seconds)
    # Passes, then gradients, update and host of every rank.
    assert len(step.timeline) <= rectangles(timeline_chart(step, whole)) <= len(step.timeline) + 4 * 3


def test_a_long_step_shows_its_start_and_its_end() -> None:
    step = price(piped(virtual_stages=8, tensor_parallel=1), timeline=True)
    long = price(
        training_job(
            "llama-3.1-8b", "h100-sxm", gpus=4, global_batch_sequences=256, seq_len=8192,
            plan=TrainingPlan(pipeline_parallel=4, virtual_stages=8),
        ),
        timeline=True,
    )  # fmt: skip
    assert len(windows(step)) <= 2
    start, end = windows(long)
    assert start.start_s == 0.0
    assert end.end_s == long.seconds
    drawn = rectangles(timeline_chart(long, start)) + rectangles(timeline_chart(long, end))
    assert drawn < len(long.timeline) / 4


def test_of_many_ranks_some_are_shown_with_both_ends() -> None:
    ranks = shown_ranks(37)
    assert len(ranks) == len(set(ranks)) == 16
    assert (ranks[0], ranks[-1]) == (0, 36)
