"""`windtunnel explain`: where a step's time, memory and energy go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from windtunnel.cli import options
from windtunnel.cli.common import DONE, command, output_problems, show, write_json
from windtunnel.cli.deploying import DEPLOYMENT, read_deployment
from windtunnel.cli.given import Given
from windtunnel.cli.traffic import TRAFFIC, read_traffic

if TYPE_CHECKING:
    from windtunnel.operators.batch import Batch
    from windtunnel.specs.deployment import DeploymentSpec
    from windtunnel.workload.load import LoadedWorkload

BATCH = ("decode", "context", "prefill", "prefill_start")


@command
def explain(
    model: options.Model = None,
    accelerator: options.Accelerator = None,
    deployment: options.DeploymentFile = None,
    decode: Annotated[
        int | None, typer.Option("--decode", metavar="B", help="Requests that decode in the step. Default 32.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="C", help="Their context, tokens each. Default 1024.")
    ] = None,
    prefill: Annotated[
        int | None, typer.Option("--prefill", metavar="N", help="Prompt tokens computed in the step. Default 0.")
    ] = None,
    prefill_start: Annotated[
        int | None,
        typer.Option("--prefill-start", metavar="N", help="Tokens of that prompt computed before. Default 0."),
    ] = None,
    trace: options.Trace = None,
    workload: options.Workload = None,
    rate: options.Rate = None,
    rate_scale: options.RateScale = None,
    limit: options.Limit = None,
    seed: options.Seed = None,
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
    settings: options.Settings = None,
    json_path: options.Json = None,
) -> int:
    """Take one step apart: time by operator, what bounds each, how far from the hardware's limit, memory, energy.

    The step is a batch given by --decode, --context and --prefill, or the mean step that a workload leads to
    (--trace or --workload).
    """
    flags = {name: value for name, value in locals().items() if name in (*DEPLOYMENT, *TRAFFIC, *BATCH)}
    given = Given(flags, settings)
    given.problems += output_problems(json=json_path)
    found = read_deployment(given)
    by_workload = given.has("trace") or given.has("workload")
    if by_workload and any(given.has(name) for name in BATCH):
        given.wrong(next(name for name in BATCH if given.has(name)), "cannot be combined with a workload")
    loaded = read_traffic(given, given.whole("seed", 0, 0)) if by_workload else None
    sizes = {name: given.whole(name, default, 0) for name, default in zip(BATCH, (32, 1024, 0, 0), strict=True)}
    if given.has("prefill") and not given.has("decode"):
        sizes["decode"] = 0
    if not by_workload and not sizes["decode"] and not sizes["prefill"]:
        given.wrong("decode", "leaves nothing to compute", "--decode or --prefill above 0")
    given.check()
    assert found is not None
    from windtunnel.report.explain import explain_record, explain_step, explain_text

    batch, what = _of_workload(found, loaded) if loaded is not None else _of_flags(found, sizes)
    explanation = explain_step(found, batch, what)
    show(explain_text(explanation), json_path)
    write_json(explain_record(explanation), json_path)
    return DONE


def _of_flags(deployment: DeploymentSpec, sizes: dict[str, int]) -> tuple[Batch, str]:
    """The batch that the flags describe, and the same in words."""
    from windtunnel.operators.batch import Batch, decode_batch, prefill_batch

    window = deployment.model.attended_tokens
    batch, said = Batch(), []
    if sizes["prefill"]:
        batch += prefill_batch([(sizes["prefill_start"], sizes["prefill"])], window)
        said.append(f"Prefill of {sizes['prefill']:,} tokens")
        if sizes["prefill_start"]:
            said[-1] += f" after {sizes['prefill_start']:,}"
    if sizes["decode"]:
        batch += decode_batch(sizes["decode"], sizes["context"], window)
        word = "decode" if said else "Decode"
        unit = "request" if sizes["decode"] == 1 else "requests"
        said.append(f"{word} of {sizes['decode']:,} {unit} at a context of {sizes['context']:,} tokens")
    return batch, " with ".join(said)


def _of_workload(deployment: DeploymentSpec, loaded: LoadedWorkload) -> tuple[Batch, str]:
    """The mean step that a workload leads to on a deployment."""
    from windtunnel.metrics.mean_batch import mean_batch
    from windtunnel.search.serve import serve

    done = serve(deployment, loaded.table)
    batch = mean_batch(done.simulation, deployment.model.attended_tokens)
    said = (
        f"The mean step under {loaded.name} ({batch.decode_requests:,} decodes, {batch.prefill_tokens:,} prompt tokens)"
    )
    return batch, said
