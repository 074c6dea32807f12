"""The result of `simulate` as a plain record."""

from __future__ import annotations

from typing import Any

from windtunnel.report.json import plain
from windtunnel.report.records import deployment_record, interval_record, launch_records, slo_record
from windtunnel.search.serve import Run


def run_record(run: Run) -> dict[str, Any]:
    """The run: deployment, workload, metrics, memory, cost, launch commands. Per-request rows are in --requests."""
    meets = run.metrics.meets(run.slo) if run.slo.targets else None
    return {
        "format": "windtunnel-simulation-1",
        "label": run.label,
        "deployment": deployment_record(run.deployment),
        "workload": {"name": run.workload_name, **run.workload.as_dict()},
        "slo": slo_record(run.slo),
        "meets": meets,
        "missed": [target.key for target in run.metrics.violations(run.slo)],
        "metrics": plain(run.metrics.as_dict()),
        "metrics_interval80": interval_record(run.metrics, run.ends),
        "memory": {**plain(run.memory), "kv_bytes": run.memory.kv_bytes, "kv_tokens": run.memory.kv_tokens},
        "usd_per_h": run.usd_per_h,
        "usd_per_million_tokens": run.usd_per_million_tokens,
        "launch": launch_records(run.deployment, run.asked),
        "notes": list(run.notes),
    }
