"""A fitted engine as a file that every command accepts as `engine`, with where it comes from."""

from __future__ import annotations

import datetime
from typing import Any

from windtunnel.live.fit import RATES, Fit
from windtunnel.live.measurement import Measurement


def fit_record(fit: Fit) -> dict[str, Any]:
    """Plain values for JSON."""
    return {
        "fields": fit.fields,
        "requests": fit.requests,
        "error_before": fit.error_before,
        "error_after": fit.error_after,
        "improved": fit.improved,
    }


def engine_yaml(fit: Fit, measured: Measurement) -> str:
    """The engine with its fitted overheads, in the catalogue's form."""
    import yaml

    engine = fit.after.engine
    fields: dict[str, Any] = {name: value for name, value in fit.fields.items() if name != "kernel_rate"}
    if "kernel_rate" in fit.fields:
        fields["kernels"] = {name: getattr(engine.kernels, name) for name in RATES}
    started = str(measured.meta.get("started", ""))[:10] or datetime.date.today().isoformat()
    source = {
        "fields": sorted(fields),
        "kind": "calibrated",
        "date": started,
        "source": (
            f"fitted to {fit.requests['fitted']} measured requests on {fit.after.accelerator.name}; mean error of "
            f"TTFT and TPOT on {fit.requests['held out']} held-out requests {fit.error_after['held out']:.3f}, "
            f"before {fit.error_before['held out']:.3f}"
        ),
    }
    kept = engine.model_dump(mode="json", exclude_defaults=True, exclude={"name", "aliases", "sources", *fields})
    data = {"name": f"{engine.name}-fitted", **kept, **fields, "sources": [source]}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
