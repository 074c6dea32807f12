"""A fitted engine as a file that every command accepts as `engine`, with where it comes from."""

from __future__ import annotations

import datetime
from typing import Any

from windtunnel.live.drift import KINDS
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
        "drift": [one.as_dict() if one is not None else None for one in fit.drifts],
    }


def engine_yaml(fit: Fit, *measured: Measurement) -> str:
    """The engine with its fitted overheads, in the catalogue's form."""
    import yaml

    engine = fit.after.engine
    fields: dict[str, Any] = {name: value for name, value in fit.fields.items() if name != "kernel_rate"}
    if "kernel_rate" in fit.fields:
        fields["kernels"] = {name: getattr(engine.kernels, name) for name in RATES}
    started = max((str(one.meta.get("started", ""))[:10] for one in measured), default="")
    of = f"{fit.steps} steps" if fit.steps else f"{fit.requests['fitted']} requests"
    source = {
        "fields": sorted(fields),
        "kind": "calibrated",
        "date": started or datetime.date.today().isoformat(),
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
    moved = [one for one in fit.drifts if one is not None and one.any]
    if not moved:
        return ""
    known = [one for one in fit.drifts if one is not None]
    product, read, host = (sum(getattr(one, kind) for one in known) / len(known) for kind in KINDS)
    return f" (products at {product:.0%}, reads at {read:.0%}, Python at {host:.0%} of its speed then)"
