"""Flags that several commands share. Every default is None: defaults are applied after a settings file is read."""

from __future__ import annotations

from typing import Annotated

import typer

ROUTERS = ("round_robin", "random", "least_outstanding", "least_kv", "power_of_two")
"""Routing policies, as `windtunnel.serving.routing` names them (importing that would import the compiler)."""

Router = Annotated[
    str | None,
    typer.Option("--router", metavar="NAME", help=f"Between replicas: {', '.join(ROUTERS)}."),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Catalogue name, Hugging Face id, .yaml or config.json.")
]
Trace = Annotated[
    str | None, typer.Option("--trace", metavar="FILE", help="Trace of requests: CSV, JSONL, JSON or Parquet.")
]
Workload = Annotated[
    str | None, typer.Option("--workload", metavar="NAME|FILE", help="Catalogue workload, or a workload in YAML.")
]
Rate = Annotated[
    float | None, typer.Option("--rate", metavar="R", help="Scale arrivals to this mean rate, requests per second.")
]
RateScale = Annotated[
    float | None, typer.Option("--rate-scale", metavar="X", help="Scale arrivals: 2 is twice the traffic.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", help="Keep only the first N requests.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random. Default 0.")]
Slo = Annotated[
    str | None,
    typer.Option("--slo", metavar="TARGETS", help='Latency targets, such as "ttft_p99<2s,tpot_p99<50ms".'),
]
Engine = Annotated[str | None, typer.Option("--engine", metavar="NAME|FILE", help="Engine. Default vllm.")]
Price = Annotated[
    str | None,
    typer.Option("--price", metavar="NAME=USD", help="Dollars per accelerator and hour, such as h100-sxm=2.5,l4=0.8."),
]
Settings = Annotated[
    str | None,
    typer.Option("--settings", "--spec", metavar="FILE", help="YAML with the same fields as the flags; flags win."),
]
Html = Annotated[str | None, typer.Option("--html", metavar="PATH", help="Write a self-contained report with charts.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="PATH", help="Write the full result as JSON; '-' prints only that.")
]
Tp = Annotated[int | None, typer.Option("--tp", metavar="N", help="Tensor parallel degree. Default 1.")]
Pp = Annotated[int | None, typer.Option("--pp", metavar="N", help="Pipeline parallel degree. Default 1.")]
Ep = Annotated[int | None, typer.Option("--ep", metavar="N", help="Expert parallel degree. Default 1.")]
Replicas = Annotated[int | None, typer.Option("--replicas", metavar="N", help="Copies of the model. Default 1.")]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="DTYPE", help="Number format of the weights. Default bf16.")
]
Kv = Annotated[str | None, typer.Option("--kv", metavar="DTYPE", help="Number format of the KV cache. Default bf16.")]
MaxNumSeqs = Annotated[
    int | None, typer.Option("--max-num-seqs", metavar="N", help="Most requests running at once per replica.")
]
MaxBatched = Annotated[
    int | None, typer.Option("--max-num-batched-tokens", metavar="N", help="Token budget of a step.")
]
MaxModelLen = Annotated[
    int | None, typer.Option("--max-model-len", metavar="N", help="Longest prompt plus output, tokens.")
]
MemoryUtilization = Annotated[
    float | None, typer.Option("--gpu-memory-utilization", metavar="X", help="Share of memory the engine may take.")
]
Accelerator = Annotated[str | None, typer.Option("--accelerator", metavar="NAME", help="Catalogue name, or .yaml.")]
Node = Annotated[str | None, typer.Option("--node", metavar="NAME", help="The server. Default the accelerator's own.")]
Technique = Annotated[
    list[str] | None,
    typer.Option(
        "--technique", metavar="NAME", help="Published technique, with knobs as NAME:KNOB=VALUE; may be repeated."
    ),
]
DeploymentFile = Annotated[
    str | None, typer.Option("--deployment", metavar="FILE", help="A deployment in YAML; flags win over it.")
]
