"""Papers as a table for a terminal, and as plain records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from windtunnel.evidence.claims import ClaimResult, PaperResult
from windtunnel.evidence.reproduce import Entry
from windtunnel.report.gallery import VERDICTS, band, short
from windtunnel.report.json import plain
from windtunnel.report.text import number, paragraph, table


def gallery_text(papers: Sequence[PaperResult], missing: int = 0) -> str:
    """Every claim in a line, then why those that miss their band do.

    Args:
        papers: what was run.
        missing: papers that were asked for and not run, as the user stopped.
    """
    rows = [_row(paper, claim) for paper in papers for claim in paper.claims]
    head = ("id", "claim", "paper", "ours", "band", "verdict")
    parts = [table(head, rows, ">")] if rows else []
    counts = Counter(claim.verdict for paper in papers for claim in paper.claims)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    parts.append(paragraph(f"{len(papers)} papers, {sum(counts.values())} claims: {said or 'none'}."))
    missed = [(p, c) for p in papers for c in p.claims if c.verdict in ("partly", "contradicted")]
    if missed:
        parts.append("Why not:\n" + "\n".join(_why(paper, claim) for paper, claim in missed))
    changed = [(p, c) for p in papers for c in p.claims if c.verdict != c.expected]
    if changed:
        lines = (f"- {p.id}: {short(c.claim)}: {c.verdict}, the catalogue expects {c.expected}" for p, c in changed)
        parts.append("Unexpected:\n" + "\n".join(lines))
    if missing:
        parts.append(f"Stopped early; {missing} papers were not run.")
    return "\n\n".join(parts)


def _row(paper: PaperResult, claim: ClaimResult) -> tuple[str, ...]:
    ours, allowed = ("", "") if claim.verdict == "quoted" else (number(claim.ours), band(claim))
    return (str(paper.id), short(claim.claim, 26), number(claim.published), ours, allowed, claim.verdict)


def _why(paper: PaperResult, claim: ClaimResult) -> str:
    return paragraph(f"{paper.id}: {short(claim.claim)}: {claim.analysis or 'not analysed yet'}", 2, "- ")


def gallery_record(papers: Sequence[PaperResult]) -> dict[str, Any]:
    """The gallery as a plain record, as `--json` writes it."""
    return {"format": "windtunnel-reproduce-1", "papers": [{**plain(p), "verdict": p.verdict} for p in papers]}


def listing_text(found: Sequence[Entry]) -> str:
    """The papers that can be run."""
    rows = [(str(e.id), e.name, "training" if e.training else "serving", short(e.title, 38)) for e in found]
    return table(("id", "name", "about", "title"), rows, ">")


def listing_record(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """The same as plain records."""
    return [plain(entry) for entry in found]
