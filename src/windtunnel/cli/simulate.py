"""`windtunnel simulate`: what happens to this traffic on this deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, NO, command, output_problems, show, write_json
from windtunnel.cli.deploying import DEPLOYMENT, asked_model, read_deployment
from windtunnel.cli.given import Given
from windtunnel.cli.traffic import TRAFFIC, read_traffic

if TYPE_CHECKING:
    from windtunnel.search.serve import Run

SAMPLES = 600
"""Moments at which the cluster's state is kept for the charts."""


@command
def simulate(
    model: options.Model = None,
    accelerator: options.Accelerator = None,
    deployment: options.DeploymentFile = None,
    trace: options.Trace = None,
    workload: options.Workload = None,
    rate: options.Rate = None,
    rate_scale: options.RateScale = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
    slo: options.Slo = None,
    tp: options.Tp = None,
    pp: options.Pp = None,
    ep: options.Ep = None,
    replicas: options.Replicas = None,
    weights: options.Weights = None,
    kv: options.Kv = None,
    engine: options.Engine = None,
    technique: options.Technique = None,
    node: options.Node = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_num_batched_tokens: options.MaxBatched = None,
    max_model_len: options.MaxModelLen = None,
    gpu_memory_utilization: options.MemoryUtilization = None,
    router: options.Router = None,
    price: options.Price = None,
    settings: options.Settings = None,
    json_path: options.Json = None,
    html: options.Html = None,
    requests: Annotated[
        str | None, typer.Option("--requests", metavar="PATH", help="One row per request: .parquet, .csv or .jsonl.")
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", metavar="PATH", help="One row per step: .parquet, .csv or .jsonl.")
    ] = None,
) -> int:
    """Replay traffic on one deployment, request by request and step by step.

    With --slo the exit code is 1 when a target is missed.
    """
    names = (*DEPLOYMENT, *TRAFFIC, "slo", "router", "price")
    given = Given({name: value for name, value in locals().items() if name in names}, settings)
    from windtunnel.report.columns import table_problems

    given.problems += output_problems(json=json_path, html=html)
    given.problems += table_problems(requests, "--requests") + table_problems(steps, "--steps")
    found = read_deployment(given)
    seed = given.whole("seed", 0, 0)
    loaded = read_traffic(given, seed)
    targets = given.slo()
    prices = given.prices()
    router = given.choice("router", "least_outstanding", options.ROUTERS)
    given.check()
    assert found is not None
    assert loaded is not None
    from windtunnel.report.run_record import run_record
    from windtunnel.report.run_text import run_text
    from windtunnel.search.serve import serve

    done = serve(
        found,
        loaded.table,
        targets,
        workload_name=loaded.name,
        notes=loaded.notes,
        prices=prices,
        router=router,
        seed=seed,
        record_steps=steps is not None,
        sample_interval_s=max(loaded.table.duration_s, 1.0) / SAMPLES if html is not None else None,
        asked=asked_model(given),
        intervals=True,
    )
    show(run_text(done), json_path)
    write_json(run_record(done), json_path)
    _write_files(done, html, requests, steps)
    return NO if targets.targets and not done.metrics.meets(targets) else DONE


def _write_files(done: Run, html: str | None, requests: str | None, steps: str | None) -> None:
    """The report and the tables that were asked for."""
    if html is not None:
        from windtunnel.files import write_atomic
        from windtunnel.report.run_page import run_html

        write_atomic(html, run_html(done))
    if requests is not None or steps is not None:
        from windtunnel.report.columns import requests_frame, steps_frame, write_table

        if requests is not None:
            write_table(requests_frame(done.simulation), requests)
        if steps is not None:
            write_table(steps_frame(done.simulation), steps)
