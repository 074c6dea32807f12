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
        "steps": fit.steps,
        "drift": fit.drift.as_dict() if fit.drift is not None else None,
    }


def engine_yaml(fit: Fit, measured: Measurement) -> str:
    """The engine with its fitted overheads, in the catalogue's form."""
    import yaml

    engine = fit.after.engine
    fields: dict[str, Any] = {name: value for name, value in fit.fields.items() if name != "kernel_rate"}
    if "kernel_rate" in fit.fields:
        fields["kernels"] = {name: getattr(engine.kernels, name) for name in RATES}
    started = str(measured.meta.get("started", ""))[:10] or datetime.date.today().isoformat()
    of = f"{fit.steps} steps" if fit.steps else f"{fit.requests['fitted']} requests"
    source = {
        "fields": sorted(fields),
        "kind": "calibrated",
        "date": started,
        "source": (
            f"fitted to {of} measured on {fit.after.accelerator.name}{_speed(fit)}; mean error of "
            f"TTFT and TPOT on {fit.requests['held out']} held-out requests {fit.error_after['held out']:.3f}, "
            f"before {fit.error_before['held out']:.3f}"
        ),
    }
    kept = engine.model_dump(mode="json", exclude_defaults=True, exclude={"name", "aliases", "sources", *fields})
    data = {"name": f"{engine.name}-fitted", **kept, **fields, "sources": [source]}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _speed(fit: Fit) -> str:
    """At which speed the machine ran, where it was not that of its profile."""
    drift = fit.drift
    if drift is None or not drift.any:
        return ""
    return (
        f" (products at {drift.product:.0%}, reads at {drift.read:.0%}, Python at {drift.host:.0%} of its speed then)"
    )
