"""Fit the rates that dense products sustain in training to published steps: a developer's tool.

    python -m windtunnel.evidence.fit_training TRAINING.csv [--write]

For each entry `sustained` of `catalogue/training.yaml` it takes the rows of split `fit` and tier A that the entry
prices (device or family, number format) and moves the share until the median of log(predicted / measured)
over them is 0, every (source, model) counting alike. Entries without rows stay; `--write` puts the others
into the file. Run it after the kernels' calibration has changed.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from windtunnel.cost import training
from windtunnel.evidence import training as rows_of_training
from windtunnel.evidence.table import Row, read_table
from windtunnel.evidence.training import RATES, predict_training
from windtunnel.evidence.training_jobs import job_of
from windtunnel.specs.load import catalogue_folder

Entry = tuple[str, str]
"""A device or family of `sustained`, and a number format in it."""
Sustained = dict[str, dict[str, float]]
OTHERS = ("GPT-OSS-120B", "Qwen3-30B-A3B")
"""Models to whose rows other constants are fitted: attention with sinks, the host's time per expert."""
ROUNDS = 5


def entry_of(row: Row, sustained: Sustained) -> Entry | None:
    """The entry that prices a row's dense products; None where the row cannot be expressed."""
    if isinstance(predict_training(row), str):
        return None
    job = job_of(row)
    device, dtype = job.accelerator, job.plan.compute_dtype.removeprefix("mx")
    for name in (device.name, device.architecture, "default"):
        found = sustained.get(name, {})
        if dtype in found or "default" in found:
            return name, dtype if dtype in found else "default"
    return None


@contextmanager
def trying(sustained: Sustained) -> Iterator[None]:
    """Price with other shares for as long as the block lasts."""
    usual = training.training_constants
    changed = usual().model_copy(update={"sustained": sustained})

    def constants() -> training.TrainingConstants:
        return changed

    training.training_constants = constants  # type: ignore[assignment]
    _forget()
    try:
        yield
    finally:
        training.training_constants = usual
        _forget()


def _forget() -> None:
    training.sustained_rate.cache_clear()
    rows_of_training.forget()


def bias(rows: Sequence[Row]) -> float:
    """Median over (source, model) of the median log(predicted / measured): positive is too good."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        found = predict_training(row)
        assert not isinstance(found, str)
        sign = -1.0 if row.text("metric_name") == "iteration_time_s" else 1.0
        groups[row.text("source"), row.text("model")].append(sign * math.log(found[0] / row.number("metric_value")))
    return median(median(values) for values in groups.values())


def fit_shares(path: Path) -> dict[Entry, tuple[float, int, float]]:
    """(Share, rows, bias left) by entry."""
    table = read_table(path).keep(split="fit", tier="A")
    sustained = {name: dict(of) for name, of in training.training_constants().sustained.items()}
    members: defaultdict[Entry, list[Row]] = defaultdict(list)
    for row in table.rows:
        told = row.text("metric_name") in RATES and row.text("model") not in OTHERS
        entry = entry_of(row, sustained) if told else None
        if entry is not None:
            members[entry].append(row)
    left: dict[Entry, float] = {}
    for _ in range(ROUNDS):
        with trying(sustained):
            left = {entry: bias(rows) for entry, rows in members.items()}
        for (name, dtype), off in left.items():
            sustained[name][dtype] = min(1.0, sustained[name][dtype] * math.exp(-off))
    return {
        (name, dtype): (sustained[name][dtype], len(members[name, dtype]), off) for (name, dtype), off in left.items()
    }


def write(shares: dict[Entry, float], path: Path) -> None:
    """Put shares into the file, two digits each, leaving the rest of it as it is."""
    text = path.read_text(encoding="utf-8")
    for (name, dtype), share in shares.items():
        text = re.sub(rf"(?m)^(  {re.escape(name)}: \{{[^}}]*\b{dtype}: )[0-9.]+", rf"\g<1>{share:.2f}", text, count=1)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m windtunnel.evidence.fit_training", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    found = fit_shares(given.table)
    usual = training.training_constants().sustained
    for (name, dtype), (share, rows, off) in sorted(found.items()):
        print(f"{name} {dtype}: {usual[name][dtype]:.2f} -> {share:.3f} on {rows} rows, bias left {off:+.1%}")
    if given.write:
        write({entry: share for entry, (share, _, _) in found.items()}, Path(str(catalogue_folder("training.yaml"))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
