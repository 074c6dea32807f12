"""Switch techniques on: parse what the user asked for, refuse what does not go together, apply in order.

A technique is asked for by name, with knobs where wanted: `sarathi` or `sarathi:budget=512`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from windtunnel.errors import Problem, SpecError, nearest
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import check_speculation
from windtunnel.specs.step_extras import check_step_extras
from windtunnel.techniques.registry import TECHNIQUES
from windtunnel.techniques.technique import Technique


@dataclass(frozen=True, slots=True)
class Asked:
    """A technique with the values of all its knobs."""

    technique: Technique
    values: dict[str, float | str]


def with_techniques(
    deployment: DeploymentSpec, asked: Sequence[str] | None = None, where: str = "techniques", *, check: bool = True
) -> DeploymentSpec:
    """The deployment with techniques switched on, in the order given.

    Args:
        deployment: what to change.
        asked: such as `("sarathi:budget=512", "finequant:bits=4")`; default the deployment's own list.
        where: the file or flag to name in errors.
        check: whether the outcome is looked at as a whole, too.

    Raises:
        SpecError: an unknown technique or knob, a value out of range, or techniques that do not go together;
            every mistake at once.
    """
    names = tuple(deployment.techniques if asked is None else asked)
    found = parse(names, where)
    for one in found:
        deployment = one.technique.apply(deployment, one.values)
    if check:
        check_speculation(deployment, where)
        check_step_extras(deployment, where)
    return deployment.model_copy(update={"techniques": names})


def parse(asked: Sequence[str], where: str = "techniques") -> tuple[Asked, ...]:
    """The techniques asked for, checked one by one and against each other."""
    problems: list[Problem] = []
    found: list[Asked] = []
    for text in asked:
        name, *settings = text.split(":")
        if name not in TECHNIQUES:
            known = tuple(TECHNIQUES)
            problems.append(Problem("unknown technique", where, "", repr(name), ", ".join(known), nearest(name, known)))
            continue
        technique = TECHNIQUES[name]
        values, wrong = _values(technique, settings, where)
        problems += wrong
        found.append(Asked(technique, values))
    problems += conflicts([one.technique for one in found], where)
    if problems:
        raise SpecError(problems)
    return tuple(found)


def conflicts(techniques: Sequence[Technique], where: str = "techniques") -> list[Problem]:
    """Why techniques cannot be combined; nothing when they can."""
    problems = []
    for i, one in enumerate(techniques):
        for other in techniques[i + 1 :]:
            pair = f"{one.name} and {other.name}"
            if one.name == other.name:
                problems.append(Problem(f"{one.name} is given twice", where))
            elif one.kind and one.kind == other.kind:
                problems.append(Problem(f"{pair} cannot be combined: a deployment has one {one.kind}", where))
            else:
                reason = one.conflicts.get(other.name) or other.conflicts.get(one.name)
                if reason:
                    problems.append(Problem(f"{pair} cannot be combined: {reason}", where))
    return problems


def _values(technique: Technique, settings: Sequence[str], where: str) -> tuple[dict[str, float | str], list[Problem]]:
    values = {knob.name: knob.default for knob in technique.knobs}
    problems = []
    for text in settings:
        name, _, raw = text.partition("=")
        knob = next((knob for knob in technique.knobs if knob.name == name), None)
        if knob is None:
            allowed = ", ".join(values) or "none"
            problem = Problem("unknown knob", where, technique.name, repr(name), allowed, nearest(name, values))
            problems.append(problem)
            continue
        value = knob.read(raw)
        if value is None:
            problems.append(Problem("is out of range", where, f"{technique.name}:{name}", repr(raw), knob.allowed))
            continue
        values[name] = value
    return values, problems
