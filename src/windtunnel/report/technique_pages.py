"""Techniques and papers in the catalogue: a list of each, one technique in full."""

from __future__ import annotations

from typing import Any

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.report.text import paragraph, table
from windtunnel.specs.load import names
from windtunnel.techniques.registry import TECHNIQUES
from windtunnel.techniques.technique import Knob, Technique


def technique_record(technique: Technique) -> dict[str, Any]:
    """A technique as plain values."""
    return {
        "name": technique.name,
        "title": technique.title,
        "citation": technique.citation,
        "url": technique.url,
        "changes": list(technique.changes),
        "kind": technique.kind,
        "knobs": [
            {"name": k.name, "about": k.about, "default": k.default, "allowed": k.allowed} for k in technique.knobs
        ],
        "conflicts": dict(technique.conflicts),
    }


def technique_records() -> list[dict[str, Any]]:
    """Every technique as plain values."""
    return [technique_record(technique) for technique in TECHNIQUES.values()]


def techniques_text() -> str:
    """The techniques with what they change and their knobs."""
    rows = [(t.name, t.kind, _first(t.changes), _first_knob(t)) for t in TECHNIQUES.values()]
    said = (
        "Switch one on with --technique NAME or NAME:KNOB=VALUE, or under `techniques:` in a deployment; several "
        "combine unless they are of one kind."
    )
    return f"{table(('name', 'kind', 'changes', 'knobs'), rows)}\n\n{paragraph(said)}"


def _first(changes: tuple[str, ...], most: int = 3) -> str:
    """The first few, and that there are more."""
    return ", ".join(changes[:most]) + (", ..." if len(changes) > most else "")


def _first_knob(technique: Technique) -> str:
    """The first knob that has a number, and whether there are more."""
    known = [knob for knob in technique.knobs if not isinstance(knob.default, str)]
    said = f"{known[0].name}={known[0].shown_default}" if known else ""
    return f"{said}, ..." if len(technique.knobs) > 1 else said


def technique_of(name: str) -> Technique:
    """The technique of this name.

    Raises:
        SpecError: there is none.
    """
    if name.casefold() not in TECHNIQUES:
        known = ", ".join(TECHNIQUES)
        raise SpecError(
            Problem("unknown technique", "catalogue", "", repr(name), known, nearest(name, tuple(TECHNIQUES)))
        )
    return TECHNIQUES[name.casefold()]


def technique_text(name: str) -> str:
    """One technique in full."""
    technique = technique_of(name)
    lines = [technique.title, "", paragraph(f"Source: {technique.citation}"), f"  {technique.url}"]
    lines += ["", f"Changes: {', '.join(technique.changes)}"]
    lines += [f"One of the {technique.kind}s: a deployment has one"] if technique.kind else []
    lines += [paragraph(_knob(knob), 2, f"{knob.name}  ") for knob in technique.knobs]
    reasons: dict[str, list[str]] = {}
    for other, why in technique.conflicts.items():
        reasons.setdefault(why, []).append(other)
    lines += [paragraph(f"Not with {', '.join(others)}: {why}") for why, others in reasons.items()]
    return "\n".join(lines)


def _knob(knob: Knob) -> str:
    return f"{knob.about}; {knob.allowed}; {knob.shown_default} unless given"


def paper_count() -> int:
    """Papers with an experiment."""
    return len(names("papers")) + len(names("papers_training"))
