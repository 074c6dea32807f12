"""`windtunnel profile`: measure the kernels of this device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, command, output_problems, show, write_json
from windtunnel.cli.given import Given
from windtunnel.cli.progress import progress_bar

OWN = (
    "model",
    "out",
    "name",
    "device",
    "kernels",
    "threads",
    "tp",
    "weights",
    "max_tokens",
    "max_requests",
    "max_context",
)


@command
def profile(
    model: options.Model = None,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="Folder for the profile. Required.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the device. Default my-device.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="KIND", help="cpu (default) or cuda.")] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            "--kernels",
            metavar="KIND",
            help="torch (default), or vllm: its own on a CPU, run by the Python that has it.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            help="Threads of a kernel on a CPU, as many as the engine's. Default one per core.",
        ),
    ] = None,
    tp: options.Tp = None,
    weights: options.Weights = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", help="Most tokens of a step. Default 2048.")
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option("--max-requests", metavar="N", help="Most requests of a step. Default 64.")
    ] = None,
    max_context: Annotated[
        int | None, typer.Option("--max-context", metavar="N", help="Longest context of a request. Default 4096.")
    ] = None,
    settings: options.Settings = None,
    json_path: options.Json = None,
) -> int:
    """Measure a model's kernels on this machine, in minutes.

    The folder then holds device.yaml, which every command accepts as --accelerator. A run that was interrupted goes
    on where it stopped. Needs PyTorch: pip install 'windtunnel[profile]'.
    """
    given = Given({key: value for key, value in locals().items() if key in OWN}, settings)
    given.problems += output_problems(json=json_path)
    from windtunnel.specs.load import load
    from windtunnel.specs.plan import PlanSpec

    spec = None
    if given.has("model"):
        with given:
            spec = load("models", given.text("model"), given.where("model"))
    else:
        given.missing("model", "the model whose kernels are to be measured")
    if not given.has("out"):
        given.missing("out", "a folder for the profile")
    kind = given.choice("device", "cpu", ("cpu", "cuda"))
    whose = given.choice("kernels", "torch", ("torch", "vllm"))
    cores = given.whole("threads", 0, 0)
    limits = {key: given.whole(key, default) for key, default in _DEFAULTS.items()}
    plan = PlanSpec()
    with given:
        from windtunnel.specs.load import build

        plan = build(
            PlanSpec, {"tensor_parallel": given.whole("tp", 1), "weight_dtype": given.text("weights", "bf16")}, "plan"
        )
    given.check()
    assert spec is not None
    from windtunnel.live.profile.run import profile as measure
    from windtunnel.report.profile_text import profile_text

    with progress_bar() as progress:
        found = measure(
            spec, plan, Path(given.text("out")), name=given.text("name", "my-device"), device=kind, kernels=whose,
            threads=cores, progress=progress, **limits,
        )  # fmt: skip
    show(profile_text(found), json_path)
    write_json(found, json_path)
    return DONE


_DEFAULTS = {"max_tokens": 2048, "max_requests": 64, "max_context": 4096}
