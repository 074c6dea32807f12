"""`windtunnel reproduce`: does the model reproduce these papers?"""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, INTERRUPTED, NO, command, output_problems, show, write_json
from windtunnel.cli.progress import progress_bar


@command
def reproduce(
    papers: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Papers by number or name, such as 76 or sarathi.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run every paper that has an experiment.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Only list them.")] = False,
    json_path: options.Json = None,
    html: options.Html = None,
) -> int:
    """Run published claims as experiments and set the paper's figures beside ours.

    Each claim runs against its paper's own baseline and comes out reproduced (within its band), partly (the same
    way, another size), contradicted or quoted (beyond a performance model), with the reason where it misses. The
    exit code is 1 when a claim comes out otherwise than the catalogue expects.
    """
    from windtunnel.errors import Problem, SpecError

    problems = output_problems(json=json_path, html=html)
    if not papers and not everything and not listing:
        problems.append(Problem("is missing", "ID", allowed="numbers or names of papers, --all, or --list"))
    if problems:
        raise SpecError(problems)
    from windtunnel.evidence.reproduce import entries, find
    from windtunnel.evidence.reproduce import reproduce as run
    from windtunnel.report.gallery_text import gallery_record, gallery_text, listing_record, listing_text

    asked = find(papers) if papers else entries()
    if listing:
        show(listing_text(asked), json_path)
        write_json(listing_record(asked), json_path)
        return DONE
    with progress_bar() as progress:
        done = run(asked, progress)
    show(gallery_text(done.papers, done.missing), json_path)
    write_json(gallery_record(done.papers), json_path)
    if html is not None:
        from windtunnel.files import write_atomic
        from windtunnel.report.gallery import gallery_html

        write_atomic(html, gallery_html(done.papers))
    if done.missing:
        return INTERRUPTED
    return NO if any(c.verdict != c.expected for p in done.papers for c in p.claims) else DONE
