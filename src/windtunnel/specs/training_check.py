"""Put a training job together from names, and say which number does not fit and what would."""

from __future__ import annotations

from typing import Any

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.assemble import default_node, scale_up_fabric, single_node
from windtunnel.specs.hardware import AcceleratorSpec, NodeSpec
from windtunnel.specs.load import Collector, load, resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingEngine, TrainingJob, TrainingPlan


def training_job(
    model: str | ModelSpec,
    accelerator: str | AcceleratorSpec,
    *,
    gpus: int,
    global_batch_sequences: int,
    seq_len: int,
    plan: TrainingPlan | None = None,
    node: str | NodeSpec | None = None,
    engine: TrainingEngine = "megatron",
    where: str = "",
) -> TrainingJob:
    """A training job from names or specs, checked as a whole.

    Args:
        model: catalogue name, path of a config.json or YAML, or a spec.
        accelerator: catalogue name, YAML path or spec.
        gpus: accelerators.
        global_batch_sequences: sequences per optimiser step.
        seq_len: tokens per sequence.
        plan: the layout; default one accelerator's worth everywhere.
        node: the server; default the catalogue's node of this accelerator.
        engine: whose habits fill what the plan leaves open.
        where: file or flag named in error messages.

    Raises:
        SpecError: every mistake, together.
    """
    job = assembled_job(
        model,
        accelerator,
        gpus=gpus,
        global_batch_sequences=global_batch_sequences,
        seq_len=seq_len,
        plan=plan,
        node=node,
        engine=engine,
        where=where,
    )
    problems = job_problems(job, where)
    if problems:
        raise SpecError(problems)
    return job


def assembled_job(
    model: str | ModelSpec,
    accelerator: str | AcceleratorSpec,
    *,
    gpus: int,
    global_batch_sequences: int,
    seq_len: int,
    plan: TrainingPlan | None = None,
    node: str | NodeSpec | None = None,
    engine: TrainingEngine = "megatron",
    where: str = "",
) -> TrainingJob:
    """As `training_job`, but the layout is not checked (a search checks all of its plans at once)."""
    collect = Collector()
    found: dict[str, Any] = {}
    for kind, key, value in (("models", "model", model), ("accelerators", "accelerator", accelerator)):
        with collect:
            found[key] = load(kind, value, where or f"--{key}") if isinstance(value, str) else value
    if isinstance(node, str) and node:
        with collect:
            node = load("nodes", node, where or "--node")
    for name, given in (("gpus", gpus), ("global_batch_sequences", global_batch_sequences), ("seq_len", seq_len)):
        if given < 1:
            collect.problems.append(Problem("must be at least 1", where, name, str(given)))
    collect.check()
    device: AcceleratorSpec = found["accelerator"]
    server = node if isinstance(node, NodeSpec) else default_node(device.name) or single_node(device)
    return TrainingJob(
        model=found["model"],
        accelerator=device,
        node=server,
        scale_up=scale_up_fabric(device, server, where),
        scale_out=resolve("fabrics", server.fabric or "ethernet-100g", where),
        gpus=gpus,
        global_batch_sequences=global_batch_sequences,
        seq_len=seq_len,
        plan=plan or TrainingPlan(),
        engine=engine,
    )


def job_problems(job: TrainingJob, where: str = "") -> list[Problem]:
    """What is wrong with a job's layout: which number does not divide, and the nearest that do."""
    plan = job.plan
    problems = _format_problems(job) + _width_problems(job) + _expert_problems(job)
    if job.gpus % plan.model_ranks or job.gpus < plan.model_ranks:
        product = f"TP {plan.tensor_parallel} x CP {plan.context_parallel} x PP {plan.pipeline_parallel}"
        problems.append(
            _problem(
                f"{product} = {plan.model_ranks} must divide the accelerators",
                "gpus",
                job.gpus,
                _multiples(plan.model_ranks, job.gpus),
            )
        )
    else:
        problems += _batch_problems(job) + _zero_problems(job)
    if where:
        problems = [Problem(p.message, where, p.path, p.got, p.allowed, p.nearest) for p in problems]
    return problems


def _format_problems(job: TrainingJob) -> list[Problem]:
    """Narrow formats need matrix units of their own; 16-bit ones stand for each other."""
    dtype, peaks = job.plan.compute_dtype, job.accelerator.peak_flops_per_s
    unit = "fp8" if dtype == "mxfp8" else dtype
    if unit in peaks or unit not in ("fp8", "nvfp4"):
        return []
    known = ", ".join(sorted(name for name in peaks if name not in ("int8", "int4")))
    return [_problem(f"{job.accelerator.name} does not compute in this format", "plan.compute_dtype", dtype, known)]


def _width_problems(job: TrainingJob) -> list[Problem]:
    model, plan = job.model, job.plan
    tp, cp, chunks = plan.tensor_parallel, plan.context_parallel, plan.pipeline_parallel * plan.virtual_stages
    found: list[Problem] = []
    heads = tp * (cp if plan.context_method == "ulysses" else 1)
    if model.heads % heads:
        what = f"TP x CP = {heads} (Ulysses)" if heads != tp else "TP"
        field = "plan.tensor_parallel" if heads == tp else "plan.context_parallel"
        message = f"{what} must divide the model's {model.heads} query heads"
        found.append(_problem(message, field, tp if heads == tp else cp, _divisors(model.heads, heads)))
    elif model.latent is None and model.kv_heads % tp and tp % model.kv_heads:
        message = f"TP must divide, or be a multiple of, the model's {model.kv_heads} KV heads"
        found.append(_problem(message, "plan.tensor_parallel", tp, _divisors(model.kv_heads, tp)))
    if model.dense_layers and model.ffn % tp:
        message = f"TP must divide the MLP width {model.ffn}"
        found.append(_problem(message, "plan.tensor_parallel", tp, _divisors(model.ffn, tp)))
    # The ends may hold the embedding or the head alone.
    if chunks > model.layers + 2 * (chunks > 2):
        message = f"PP x virtual stages = {chunks} exceeds the model's {model.layers} layers"
        found.append(_problem(message, "plan.pipeline_parallel", plan.pipeline_parallel, f"at most {model.layers}"))
    if plan.pipeline_schedule == "dualpipe" and plan.pipeline_parallel % 2:
        near = f"{plan.pipeline_parallel - 1} or {plan.pipeline_parallel + 1}"
        message = "the dualpipe schedule pairs pipeline ranks: their number must be even"
        found.append(_problem(message, "plan.pipeline_parallel", plan.pipeline_parallel, near))
    if plan.stage_layers and sum(plan.stage_layers) != model.layers:
        message = f"stage_layers add up to {sum(plan.stage_layers)}, the model has {model.layers} layers"
        found.append(
            _problem(message, "plan.stage_layers", plan.stage_layers, f"entries that add up to {model.layers}")
        )
    # Ring attention gives each rank one early and one late piece of the sequence, to share causal work evenly.
    pieces = cp * (2 if plan.context_method == "ring" and cp > 1 else 1) * (tp if plan.sequence_parallel else 1)
    if job.seq_len % pieces:
        message = f"the context and sequence ranks cut a sequence into {pieces} pieces, which must divide seq_len"
        found.append(_problem(message, "seq_len", job.seq_len, _multiples(pieces, job.seq_len)))
    if plan.recompute_layers > model.layers:
        limit = f"at most {model.layers}"
        found.append(_problem("exceeds the layers", "plan.recompute_layers", plan.recompute_layers, limit))
    return found


def _expert_problems(job: TrainingJob) -> list[Problem]:
    model, plan = job.model, job.plan
    ep, etp = plan.expert_parallel, plan.expert_tensor
    if model.moe is None:
        if ep == 1:
            return []
        return [_problem(f"{model.name} has no experts to spread", "plan.expert_parallel", ep, "1")]
    found: list[Problem] = []
    if model.moe.experts % ep:
        message = f"must divide the model's {model.moe.experts} experts"
        found.append(_problem(message, "plan.expert_parallel", ep, _divisors(model.moe.experts, ep)))
    if model.moe.expert_ffn % etp:
        message = f"must divide the experts' width {model.moe.expert_ffn}"
        found.append(_problem(message, "plan.expert_tensor_parallel", etp, _divisors(model.moe.expert_ffn, etp)))
    if job.gpus % plan.pipeline_parallel == 0:
        stage = job.gpus // plan.pipeline_parallel
        if stage % (ep * etp):
            message = f"EP x expert TP = {ep * etp} must divide the {stage} accelerators of a pipeline stage"
            found.append(_problem(message, "plan.expert_parallel", ep, _divisors(stage // etp or 1, ep)))
    return found


def _batch_problems(job: TrainingJob) -> list[Problem]:
    batch, dp, micro = job.global_batch_sequences, job.data_parallel, job.plan.micro_batch
    plan = job.plan
    if batch < dp:
        message = f"fewer sequences than the {dp} data-parallel ranks"
        return [_problem(message, "global_batch_sequences", batch, f"at least {dp * micro}")]
    if batch % (dp * micro):
        message = f"DP {dp} x micro_batch {micro} = {dp * micro} must divide the global batch"
        return [_problem(message, "global_batch_sequences", batch, _multiples(dp * micro, batch))]
    count, pp = job.microbatches, plan.pipeline_parallel
    unit = {"interleaved": pp, "dualpipe": 2}.get(plan.pipeline_schedule, 1)
    if pp > 1 and (count % unit or (plan.pipeline_schedule == "dualpipe" and count < 2 * pp)):
        rule = f"a multiple of PP {pp}" if unit == pp else f"even and at least twice PP {pp}"
        message = f"the {plan.pipeline_schedule} schedule needs microbatches ({count} per rank) to be {rule}"
        near = _multiples(unit * dp * micro, batch) if unit == pp else str(2 * pp * dp * micro)
        return [_problem(message, "global_batch_sequences", batch, near)]
    return []


def _zero_problems(job: TrainingJob) -> list[Problem]:
    plan, ranks = job.plan, job.data_parallel * job.plan.context_parallel
    found = []
    for field in ("zero_group", "zero_weight_group", "zero_secondary_group"):
        group = getattr(plan, field)
        if group and ranks % group:
            message = f"must divide the {ranks} ranks that hold the same weights (DP x CP)"
            found.append(_problem(message, f"plan.{field}", group, _divisors(ranks, group)))
    if plan.zero_secondary_group and plan.zero_stage < 3:
        found.append(_problem("a second copy of weights needs ZeRO stage 3", "plan.zero_stage", plan.zero_stage, "3"))
    return found


def _problem(message: str, path: str, got: object, allowed: str) -> Problem:
    return Problem(message, "", path, str(got), allowed)


def _divisors(number: int, around: int) -> str:
    """The divisors nearest to a value, from below and above."""
    below = max((d for d in range(1, min(around, number) + 1) if number % d == 0), default=1)
    above = next((d for d in range(around, number + 1) if number % d == 0), None)
    return f"{below}" if above is None or above == below else f"{below} or {above}"


def _multiples(unit: int, around: int) -> str:
    """The multiples nearest to a value, from below and above."""
    below = around // unit * unit
    above = below + unit
    return f"{below} or {above}" if below else f"{above}"
