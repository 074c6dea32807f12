"""Residuals of devices under the constants of another architecture: what a datasheet alone is worth.

Every measured device is predicted with its own datasheet's rates and, in turn, the constants fitted to the
measured device of each other architecture. The quantiles of measured / predicted over all pairs, each pair
counting the same, are the band that devices without measurements get.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import yaml

from windtunnel.cost.calibration.fit import Fit
from windtunnel.cost.calibration.tables import split

ROWS = 1000
"""Rows of each pair of devices."""
ASSUMED = {"elementwise": [0.6667, 1.5], "engine": [0.6667, 1.5]}
"""Classes without a table."""
GROWTH = 1.3
"""What groups of published results that the engines' fits left out lose (`catalogue/evidence/bands.yaml`)."""


def across_devices(fits: Mapping[str, Mapping[str, Fit]]) -> dict[str, tuple[float, float]]:
    """The bands by operator class, from fits by architecture and class; a class of one architecture has none."""
    found: dict[str, tuple[float, float]] = {}
    for name in sorted({name for one in fits.values() for name in one}):
        known = [one[name] for one in fits.values() if name in one]
        logs = [
            _log_ratio(mine, other)
            for mine in known
            for other in known
            if mine is not other and mine.form == other.form
        ]
        if logs:
            pooled = np.concatenate(logs)
            found[name] = (float(np.exp(np.quantile(pooled, 0.1))), float(np.exp(np.quantile(pooled, 0.9))))
    return found


def _log_ratio(mine: Fit, other: Fit) -> np.ndarray:
    """Logarithms of measured / predicted of a device's rows under another device's constants, always as many."""
    _, rows = split(len(mine.measured_s), 0, seed=1)
    rows = np.resize(rows, ROWS)
    log: np.ndarray = np.log(mine.measured_s[rows] / mine.predict(np.asarray(other.values), rows))
    return log


def across_yaml(bands: Mapping[str, tuple[float, float]], architectures: Mapping[str, str], date: str) -> str:
    """The entry as YAML; `architectures` names the device that stood for each."""
    devices = ", ".join(sorted(architectures.values()))
    entry = {
        "extends": "generic",
        "name": "across-devices",
        "across_devices": {name: [round(end, 4) for end in band] for name, band in bands.items()} | ASSUMED,
        "growth": GROWTH,
        "sources": [
            {
                "kind": "calibrated",
                "source": "10 % and 90 % quantiles of measured / predicted in aiconfigurator-core 0.12 (Apache-2.0): "
                f"each of {devices} under the constants of each other",
                "date": date,
            },
            {
                "fields": ["growth"],
                "kind": "calibrated",
                "source": "what groups of published results lose that the engines' fits left out",
                "date": date,
            },
            {"kind": "assumed", "source": "elementwise and engine: a factor of 1.5 either way", "date": date},
            {
                "fields": [
                    "gemm",
                    "decode",
                    "prefill",
                    "moe",
                    "collective",
                    "elementwise_efficiency",
                    "elementwise_launch_s",
                ],
                "kind": "assumed",
                "source": "as in the generic entry; only the bands of this entry are used",
                "date": date,
            },
        ],
    }
    return yaml.safe_dump(entry, sort_keys=False, width=110)
