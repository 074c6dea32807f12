"""Write the bands of end-to-end figures from the residuals of rows kept for fitting: a developer's tool.

    python -m windtunnel.evidence.fit_bands SERVING.csv INFERENCEX.csv TRAINING.csv

Run it after the engines are fitted. Bands are widened by what groups lose that are left out of them
(`intervals.growth_of`), or of the fits of engines where that is more (`--growth`); rows of split `check` take no part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from windtunnel.evidence.intervals import bands_of, growth_by_freedom, growth_of, kind_of
from windtunnel.evidence.outcomes import predict_all
from windtunnel.evidence.score import Result
from windtunnel.evidence.table import read_table
from windtunnel.evidence.validate import claims_from, compare
from windtunnel.files import write_atomic
from windtunnel.specs.load import catalogue_folder

TRAINING_CONSTANTS = 9
"""Numbers of `catalogue/training.yaml` and `collectives.yaml` that were fitted to published steps: sustained rates of
Ampere, Hopper (two formats), B200 and GB200 (two formats), attention with sinks, an expert's launch, the all-to-all."""

HEAD = """# 80 % bands of end-to-end figures: measured / predicted over published results of split `fit`, by class
# (mode, kind, engine family, where the device's constants come from). Written by windtunnel.evidence.fit_bands.
"""


def fit_results(paths: Sequence[Path]) -> list[Result]:
    """Predictions of the rows that bands may be taken from."""
    found: list[Result] = []
    for path in paths:
        table = read_table(path)
        claims = claims_from(table.keep(split="fit", tier="" if table.format == "inferencex" else "A"))
        if table.format == "serving":
            # Watts and joules are of tier B throughout: their prompts are not in the files.
            extra = claims_from(table.keep(split="fit", tier="B"))
            claims += [claim for claim in extra if "power" in claim.tags["metric"] or "energy" in claim.tags["metric"]]
        outcomes = predict_all([claim.scenario for claim in claims if claim.scenario is not None])
        found += compare(claims, outcomes)[0]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel.evidence.fit_bands", description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--growth", type=float, default=1.0, help="least growth, as fit_engines prints it")
    parser.add_argument("--date", default="2026-11")
    given = parser.parse_args(arguments)
    results = fit_results(given.tables)
    bands = bands_of(results)
    training = [one for one in results if kind_of(one.tag("metric")) == "training"]
    data = {
        "growth": max(growth_of(results), given.growth),
        "growth_by": {"training": growth_by_freedom(training, TRAINING_CONSTANTS)} if training else {},
        "datasheet": 1.5,
        "bands": {name: one.model_dump() for name, one in bands.items()},
        "sources": [
            {
                "kind": "calibrated",
                "source": f"residuals of {len(results)} published figures of split fit",
                "date": given.date,
            }
        ],
    }
    path = Path(str(catalogue_folder("evidence") / "bands.yaml"))
    write_atomic(path, HEAD + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120))
    print(f"{len(bands)} bands from {len(results)} figures")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
