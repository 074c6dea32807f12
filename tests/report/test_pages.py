from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from windtunnel import plan, request_table
from windtunnel.report import charts
from windtunnel.report.plan_page import plan_html
from windtunnel.report.records import plan_record
from windtunnel.report.terminal import plan_text
from windtunnel.search.result import PlanResult

VOID = {"meta", "link", "input", "br", "hr", "img"}
URL = re.compile(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.IGNORECASE)


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of order; gathers ids, attributes that load things, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.loads += [value for key, value in attrs if key in ("src", "href", "action") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def result() -> PlanResult:
    rng = np.random.default_rng(0)
    n = 150
    arrivals = np.cumsum(rng.exponential(0.2, n))
    workload = request_table(arrivals, rng.integers(20, 900, n), rng.integers(1, 120, n))
    return plan(
        "llama-3.1-8b", accelerators=["l40s", "h100-sxm"], slo="ttft_p99<2s,tpot_p99<50ms", workload=workload,
        max_accelerators=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(result: PlanResult) -> str:
    return plan_html(result)


def own_part(page: str) -> Iterator[str]:
    """The page without plotly.js, whose source names addresses that it never asks for unless told to."""
    for script in re.split(r"<script>", page):
        if len(script) < 1_000_000:
            yield script


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert parser.loads == ["data:,"]
    for part in own_part(page):
        assert not URL.search(part), URL.search(part)
        assert "@import" not in part
        assert "fetch(" not in part


def test_every_chart_has_its_place_and_no_nan(page: str) -> None:
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    found = json.loads(data.group(1), parse_constant=lambda name: pytest.fail(name))
    assert len(found) >= 8
    for name, chart in found.items():
        assert f'id="{name}"' in page
        assert chart["data"]


def test_page_text_and_record_tell_the_same(result: PlanResult, page: str) -> None:
    assert result.pick is not None
    text, record = plan_text(result), plan_record(result)
    assert record["pick"]["label"] == result.pick.label
    hardware, _, layout = result.pick.label.partition(": ")
    assert f"{hardware} ({layout})" in " ".join(text.split())
    assert f"Deploy on {hardware} ({layout})" in page
    assert page.count('<tr data-outcome="') == len(result.candidates)
    assert max(map(len, text.splitlines())) <= 80


def test_user_text_is_escaped(result: PlanResult) -> None:
    from dataclasses import replace

    page = plan_html(replace(result, model="<script>alert(1)</script>", workload_name="a&b", notes=("</script><b>",)))
    assert "<script>alert(1)" not in page
    assert "a&amp;b" in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_a_distribution_reaches_its_ends() -> None:
    chart = charts.cdf(np.array([0.1, 0.2, np.nan, 0.4]), [0.3], [0.5], "TTFT")
    curve, marks = chart["data"]
    assert curve["x"][0] == 100.0
    assert curve["x"][-1] == 400.0
    assert curve["y"][-1] == 100.0
    assert marks["x"] == [200.0]
    assert chart["layout"]["shapes"][0]["x0"] == 300.0


def test_nothing_to_draw_draws_nothing() -> None:
    assert charts.cdf(np.array([np.nan]), [], [], "TTFT")["data"] == []
    assert charts.front([], "TPOT p99")["data"] == []


@pytest.mark.slow
@pytest.mark.parametrize("size", ["1280,3000", "500,3000"])
def test_a_browser_shows_it_without_complaint(page: str, tmp_path: Path, size: str) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    (tmp_path / "page.html").write_text(page)
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
        "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}",
    ]  # fmt: skip
    done = subprocess.run(
        [browser, *flags, "--dump-dom", (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("main-svg") >= 8
