"""Papers as a page: each published figure, its conditions and source beside ours, with the verdict and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from windtunnel.evidence.claims import ClaimResult, PaperResult, Verdict
from windtunnel.report.charts import Chart
from windtunnel.report.html import Page, section, tiles
from windtunnel.report.text import number

VERDICTS: tuple[Verdict, ...] = ("reproduced", "partly", "contradicted", "quoted")
"""In the order in which a reader is told of them."""
_COLOURS = {"reproduced": "--good", "partly": "--c5", "contradicted": "--bad"}
_MOODS = {"reproduced": "good", "contradicted": "bad"}
ABOUT = (
    "Each claim is run against the baseline that its paper used, on the model and accelerator that it names. "
    "No constant of the model was set to make a paper come out. Quoted claims (accuracy, perplexity) are beyond "
    "what a performance model can judge."
)


def gallery_html(papers: Sequence[PaperResult]) -> str:
    """The whole gallery as one self-contained page."""
    claims = [claim for paper in papers for claim in paper.claims]
    run = [claim for claim in claims if claim.verdict != "quoted"]
    held = sum(claim.verdict == "reproduced" for claim in run)
    lead = f"{held} of {len(run)} claims of {len(papers)} papers come out within their bands. {ABOUT}"
    page = Page(title="Papers reproduced", heading="Does the model reproduce these papers?", lead=lead)
    page.add(tiles([(str(sum(c.verdict == v for c in claims)), v, _MOODS.get(v, "")) for v in VERDICTS]))
    chart = overview(papers)
    if chart["data"]:
        note = "1 is the paper's figure, the bar its accepted band; logarithmic"
        figure = page.figure(chart, "Our figure over the paper's", note)
        tall = f'class="chart" style="height: {chart["layout"]["height"]}px"'  # a row for every claim
        page.add(section("At a glance", figure.replace('class="chart"', tall, 1)))
    for paper in papers:
        page.add(_paper(paper))
    return page.html("Bands and verdicts are kept with each paper in the catalogue.")


def overview(papers: Sequence[PaperResult]) -> Chart:
    """Our figure over the published one, one row per claim that was run, with the band that counts."""
    rows = [
        (f"{paper.id}.{place} {escape(short(claim.claim))}", claim)
        for paper in papers
        for place, claim in enumerate(paper.claims, 1)
        if claim.verdict != "quoted" and claim.published > 0 and 0 < claim.ours < math.inf
    ]
    data: list[Chart] = []
    for verdict, colour in _COLOURS.items():
        members = [(name, claim) for name, claim in rows if claim.verdict == verdict]
        if not members:
            continue
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": verdict,
                "x": [claim.ours / claim.published for _, claim in members], "y": [name for name, _ in members],
                "text": [_hover(claim) for _, claim in members], "hovertemplate": "%{text}<extra></extra>",
                "marker": {"color": colour, "size": 11, "line": {"color": "--card", "width": 1}},
            }
        )  # fmt: skip
    shapes: list[Chart] = [_line(1.0, "--soft", "dot")] if rows else []
    for row, (_, claim) in enumerate(rows):  # places on an axis of names are counted from 0
        low, high = max(claim.low, 0.0) / claim.published, claim.high / claim.published
        if low > 0 and math.isfinite(high):
            ends = {"x0": low, "x1": high, "y0": row - 0.3, "y1": row + 0.3}
            shapes.append({"type": "rect", "layer": "below", **ends, "fillcolor": "--line", "line": {"width": 0}})
    layout = {
        "xaxis": {"type": "log", "title": {"text": "ours / paper's"}},
        "yaxis": {
            "automargin": True,
            "autorange": "reversed",
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [name for name, _ in rows],
        },
        "height": 140 + 24 * len(rows),
        "shapes": shapes,
    }
    return {"data": data, "layout": layout}


def _line(x: float, colour: str, dash: str) -> Chart:
    """A line across the whole height."""
    ends = {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "line", **ends, "line": {"color": colour, "width": 1.5, "dash": dash}}


def _hover(claim: ClaimResult) -> str:
    return f"{escape(claim.claim)}<br>paper {number(claim.published)}, ours {number(claim.ours)}, band {band(claim)}"


def short(text: str, most: int = 44) -> str:
    """The text, cut at a word."""
    return text if len(text) <= most else text[: most + 1].rsplit(" ", 1)[0] + " …"


def band(claim: ClaimResult) -> str:
    """The band that counts as reproduced, in words."""
    low, high = math.isfinite(claim.low), math.isfinite(claim.high)
    if low and high:
        return f"{number(claim.low)} to {number(claim.high)}"
    if low:
        return f"at least {number(claim.low)}"
    return f"at most {number(claim.high)}" if high else "any"


def _paper(paper: PaperResult) -> str:
    head = "".join(
        f'<th class="{kind}">{name}</th>'
        for name, kind in (("claim", ""), ("paper", "n"), ("band", "n"), ("ours", "n"), ("verdict", ""), ("why", ""))
    )
    rows = "".join(_row(claim) for claim in paper.claims)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    mood = _MOODS.get(paper.verdict, "")
    link = f'<p>Paper {paper.id}, <a href="{escape(paper.url)}">{escape(paper.url)}</a>: '
    return section(paper.title, f'{link}<b class="{mood}">{paper.verdict}</b></p>', table)


def _row(claim: ClaimResult) -> str:
    quoted = claim.verdict == "quoted"
    place = f'<br><span class="open">{escape(claim.where)}</span>' if claim.where else ""
    under = f"<p>{escape(claim.conditions)}</p>" if claim.conditions and not quoted else ""
    surprise = "" if claim.verdict == claim.expected else f"<br>was {claim.expected}"
    return (
        f'<tr><td class="title">{escape(claim.claim)}{place}</td><td class="n">{number(claim.published)}</td>'
        f'<td class="n">{"" if quoted else band(claim)}</td><td class="n">{"" if quoted else number(claim.ours)}</td>'
        f'<td><b class="{_MOODS.get(claim.verdict, "")}">{claim.verdict}</b>{surprise}</td>'
        f'<td class="why">{escape(claim.analysis)}{under}</td></tr>'
    )
