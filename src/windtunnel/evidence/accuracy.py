"""The page that says how wrong predictions are: `docs/accuracy.md`, written from the evidence.

    python -m windtunnel.evidence.accuracy SERVING.csv INFERENCEX.csv ... --out docs/accuracy.md

It is not among the pages that are checked to be up to date, since the evidence is not part of the
repository; it says when it was written and with which figures.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path

import yaml

from windtunnel.evidence.score import Result, summary
from windtunnel.evidence.validate import Validation, validate
from windtunnel.files import write_atomic
from windtunnel.specs.fields import Spec
from windtunnel.specs.load import build, catalogue_folder

LARGE = 0.25
"""Median error of a group above which the page owes a reason."""
ROWS = 10
"""Rows below which a group's median says little."""
WORST = 5
"""Worst groups of rows listed per table."""


class Reason(Spec):
    """Why a group of rows is far off."""

    group: str
    name: str
    reason: str


class Reasons(Spec):
    """The packaged reasons, `catalogue/evidence/reasons.yaml`."""

    reasons: tuple[Reason, ...] = ()
    not_blind: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def written() -> Reasons:
    """What was written by hand."""
    text = (catalogue_folder("evidence") / "reasons.yaml").read_text(encoding="utf-8")
    return build(Reasons, yaml.safe_load(text), "catalogue/evidence/reasons.yaml")


def reasons() -> dict[tuple[str, str], str]:
    """Written reasons by (group, name)."""
    return {(one.group, one.name): one.reason for one in written().reasons}


def reason_of(group: str, name: str) -> str:
    """The written reason of a group: its own, or that of the longest beginning of its name."""
    known = [n for g, n in reasons() if g == group and name.startswith(n)]
    return reasons()[group, max(known, key=len)] if known else "No reason is known yet."


def page(done: Sequence[Validation], today: str) -> str:
    """The page of several validations."""
    lines = [
        "# How far off predictions are",
        "",
        f"Written on {today} by `python -m windtunnel.evidence.accuracy` from tables of published measurements that",
        "are not part of this repository. Errors are relative to the measurement; *bias* is the median signed error;",
        "*in 80 %* is the share of rows inside their 80 % interval. Constants were fitted on rows of split `fit`",
        "alone, by engine and version or by device; rows of split `check` entered no fit.",
        "",
        *_not_blind(),
    ]
    for one in done:
        lines += _table_section(one)
    return "\n".join(lines).rstrip() + "\n"


def _not_blind() -> list[str]:
    """Choices that were made with errors on checked rows in view, so that nobody takes those for a blind test."""
    said = written().not_blind
    lines = ["## What was not blind", ""]
    lines += [
        "No constant was fitted to rows of split `check`, but these choices were made with their errors in view:",
        "",
    ]
    return [*lines, *(f"- {text}" for text in said), ""]


def _table_section(done: Validation) -> list[str]:
    name = f"{done.table.format}: {len(done.claims):,} figures, {len(done.results):,} predicted"
    lines = [f"## {name}", "", *_head("tier and split")]
    for tier in sorted({r.tag("tier") for r in done.results}):
        for split in sorted({r.tag("split") for r in done.results}):
            rows = [r for r in done.results if r.tag("tier") == tier and r.tag("split") == split]
            of = sum(c.tags["tier"] == tier and c.tags["split"] == split for c in done.claims)
            if rows:
                lines.append(_row(f"tier {tier}, {split}", of, rows))
    best = [r for r in done.results if r.tag("tier") == "A"] or list(done.results)
    for group in ("source", "gpu", "engine", "metric", "model"):
        lines += ["", f"### Tier A by {_title(group)}", "", *_head(_title(group))]
        lines += _group_rows(done, best, group)
    return [*lines, "", *_misses(best), *_missing(done), ""]


def _title(group: str) -> str:
    return {"gpu": "accelerator", "engine": "engine and version"}.get(group, group)


def _head(first: str) -> list[str]:
    return [
        f"| {first} | rows | predicted | median | p90 | bias | in 80 % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]


def _row(name: str, of: int, rows: Sequence[Result]) -> str:
    s = summary(rows)
    figures = " | ".join(_percent(s[key]) for key in ("median_abs_error", "p90_abs_error", "bias", "coverage80"))
    return f"| {name} | {of:,} | {len(rows):,} | {figures} |"


def _group_rows(done: Validation, rows: Sequence[Result], group: str) -> list[str]:
    members: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for row in rows:
        members[row.tag(group), row.tag("split")].append(row)
    counted = Counter(
        (c.tags.get(group, ""), c.tags.get("split", "")) for c in done.claims if c.tags.get("tier") == "A"
    )
    order = sorted(members, key=lambda key: (key[0], key[1]))
    return [
        _row(f"{key[0]}, {key[1]}" if key[1] else key[0], counted[key] or len(members[key]), members[key])
        for key in order
    ]


def _misses(rows: Sequence[Result]) -> list[str]:
    """Groups that owe a reason, with it, and the worst set-ups."""
    lines = ["### Large misses and why", ""]
    for group in ("gpu", "source", "engine", "model"):
        members: defaultdict[str, list[Result]] = defaultdict(list)
        for row in rows:
            members[row.tag(group)].append(row)
        for name, mine in sorted(members.items()):
            parts = {"": mine, ", check": [row for row in mine if row.tag("split") == "check"]}
            for title, part in parts.items():
                s = summary(part)
                if len(part) >= ROWS and s["median_abs_error"] > LARGE:
                    figures = f"{len(part)} rows, median {_percent(s['median_abs_error'])}, bias {_percent(s['bias'])}"
                    lines.append(f"- **{name}{title}** ({figures}): {reason_of(group, name)}")
                    break
    if len(lines) == 2:
        lines.append(f"No group of {ROWS} rows or more is above {LARGE:.0%} median.")
    lines += ["", "The set-ups that are furthest off:", ""]
    setups: defaultdict[tuple[str, ...], list[Result]] = defaultdict(list)
    for row in rows:
        setups[row.tag("model"), row.tag("gpu"), row.tag("engine"), row.tag("metric")].append(row)
    worst = sorted(setups.items(), key=lambda item: -(summary(item[1])["median_abs_error"]))[: 2 * WORST]
    for key, mine in worst:
        s = summary(mine)
        lines.append(
            f"- {', '.join(key)}: {len(mine)} rows, "
            f"median {_percent(s['median_abs_error'])}, bias {_percent(s['bias'])}"
        )
    return [*lines, ""]


def _missing(done: Validation) -> list[str]:
    """Rows that are not predicted, by reason."""
    counted = Counter(done.whys.values())
    if not counted:
        return []
    lines = ["### Not predicted", ""]
    return [*lines, *(f"- {count:,} figures: {_short(why)}" for why, count in counted.most_common(12)), ""]


def _short(why: str) -> str:
    return why if len(why) <= 140 else why[:137] + "..."


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel.evidence.accuracy", description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.md"))
    given = parser.parse_args(arguments)
    done = [validate(path) for path in given.tables]
    write_atomic(given.out, page(done, date.today().isoformat()))
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
