"""Fit how long engines' work on the host takes on servers that no engine's host times were fitted on.

    python -m windtunnel.evidence.fit_hosts INFERENCEX.csv ... [--write]

An engine's host times and its server's `host_time` only show as a product. Where the one engine measured on a new
server was measured on no other, it is taken to need as long for a prompt as another engine (`hosts` in
`catalogue/evidence/engine_fits.yaml`), and the server's factor is the one that minimises

    sum of soft-L1(log(predicted / measured))

over first tokens of split `fit`, rows weighed as in `fit_engines`. With `--write` the factor goes into the node's file
and the times of a prompt into the engine's.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from windtunnel.evidence.fit_engines import SOFT, HostFit, Problem, engine_fits, fit_claims, problem_of
from windtunnel.evidence.scenario import Claim
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import NodeSpec
from windtunnel.specs.load import catalogue_folder, resolve

BETWEEN = 0.2, 2.0
"""Factors that are considered."""
HALVINGS = 12
PROMPT_TIMES = (
    "prefill_launch_s", "eager_launch_s", "eager_latent_s", "eager_experts_s", "frontend_s", "frontend_token_s",
)  # fmt: skip
"""Times of the host that steps without prompts do not have."""


def host_times(like: EngineSpec, present: float, wanted: float) -> dict[str, float]:
    """Times of a prompt that show a server's factor as `wanted` although the catalogue says `present`."""
    return {name: getattr(like, name) * wanted / present for name in PROMPT_TIMES}


def problem_for(claims: Sequence[Claim], one: HostFit) -> Problem:
    """First tokens on the server, without the rows that the engine's own fit leaves out."""
    node: NodeSpec = resolve("nodes", one.node)
    without = next((fit.without for fit in engine_fits().fits if one.preset in fit.presets), ())
    mine = [
        c for c in claims if c.value.startswith("ttft") and c.scenario and c.scenario.accelerator == node.accelerator
    ]
    return problem_of(mine, (one.preset,), without)


def loss(problem: Problem, one: HostFit, factor: float) -> float:
    """What is minimised."""
    node: NodeSpec = resolve("nodes", one.node)
    r = problem.residuals(host_times(resolve("engines", one.like), node.host_time, factor))
    r = np.where(np.isfinite(r), r, 0.0)
    return float(np.sum(problem.weights * (np.sqrt(1.0 + (r / SOFT) ** 2) - 1.0)))


def fit_host(claims: Sequence[Claim], one: HostFit) -> tuple[float, int]:
    """(factor, rows that it rests on): golden-section search over its logarithm."""
    problem = problem_for(claims, one)
    low, high = (math.log(end) for end in BETWEEN)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    inner = [high - golden * (high - low), low + golden * (high - low)]
    found = [loss(problem, one, math.exp(x)) for x in inner]
    for _ in range(HALVINGS):
        if found[0] <= found[1]:
            high, inner[1], found[1] = inner[1], inner[0], found[0]
            inner[0] = high - golden * (high - low)
            found[0] = loss(problem, one, math.exp(inner[0]))
        else:
            low, inner[0], found[0] = inner[0], inner[1], found[1]
            inner[1] = low + golden * (high - low)
            found[1] = loss(problem, one, math.exp(inner[1]))
    return math.exp(0.5 * (low + high)), len(problem.claims)


def write(one: HostFit, factor: float, rows: int, date: str) -> None:
    """Put the factor into the node's file and the host times into the engine's."""
    path = Path(str(catalogue_folder("nodes"))) / f"{one.node}.yaml"
    text = re.sub(r"^host_time:.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    text = re.sub(r"^- \{fields: \[host_time\].*\n", "", text, flags=re.M)
    said = (
        f"windtunnel.evidence.fit_hosts: {rows} first tokens of {one.preset}, whose times of a prompt are taken as of "
        f"{one.like}"
    )
    source = f'- {{fields: [host_time], kind: calibrated, source: "{said}", date: "{date}"}}\n'
    text = text.replace("sources:\n", f"host_time: {factor:.2f}\nsources:\n{source}", 1)
    path.write_text(text, encoding="utf-8")
    path = Path(str(catalogue_folder("engines"))) / f"{one.preset}.yaml"
    text, like = path.read_text(encoding="utf-8"), resolve("engines", one.like)
    for name in PROMPT_TIMES:
        text = re.sub(rf"^{name}:.*$", f"{name}: {getattr(like, name):.3g} s", text, flags=re.M)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel.evidence.fit_hosts", description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--date", default="2026-11")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    claims = fit_claims(given.tables)
    for one in engine_fits().hosts:
        factor, rows = fit_host(claims, one)
        print(f"{one.node}: {factor:.2f} from {rows} first tokens")
        if given.write:
            write(one, factor, rows, given.date)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
