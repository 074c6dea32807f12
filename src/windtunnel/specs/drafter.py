"""The drafter of a deployment as a model and a plan of its own, from the catalogue or from the target's shape."""

from __future__ import annotations

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.assemble import WEIGHT_ONLY, deployment_problems, half_precision
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import load
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.speculation import OWN_MODEL, SpeculativeSpec


def drafter_of(deployment: DeploymentSpec, where: str = "") -> DeploymentSpec | None:
    """What drafts, as a deployment beside the target's: same accelerator, node and engine, without speculation.

    None when no model drafts (no speculation, n-grams, heads without layers).

    Args:
        deployment: the target's.
        where: file or flag for error messages.

    Raises:
        SpecError: the drafter is unknown, or cannot run so.
    """
    spec = deployment.engine.speculative
    if spec is None or spec.method in ("ngram", "medusa"):
        return None
    model = draft_model(deployment.model, spec, where)
    engine = deployment.engine.model_copy(
        update={
            "speculative": None,
            "max_model_len": min(deployment.max_model_len, model.max_context_tokens),
        }
    )
    plan = half_precision(_plan(deployment, model, spec), deployment.accelerator)
    drafter = deployment.model_copy(update={"model": model, "engine": engine, "plan": plan, "techniques": ()})
    # Groups of ranks that attend to requests of their own draft for them, with or without experts.
    problems = [p for p in deployment_problems(drafter, where) if not p.path.endswith("attention_data_parallel")]
    if problems:
        said = "; ".join(f"{problem.path.removeprefix('plan.')} {problem.message}" for problem in problems)
        raise SpecError(Problem(f"the drafter cannot run so: {said}", where, "engine.speculative"))
    return drafter


def check_speculation(deployment: DeploymentSpec, where: str = "") -> None:
    """Raise a `SpecError` with everything in which the deployment does not go with its speculative decoding."""
    problems = speculation_problems(deployment, where)
    if problems:
        raise SpecError(problems)


def speculation_problems(deployment: DeploymentSpec, where: str = "") -> list[Problem]:
    """Scheduler, stages, memory and budget that speculative decoding does not go with, or a drafter that cannot run."""
    spec, engine, plan = deployment.engine.speculative, deployment.engine, deployment.plan
    problems: list[Problem] = []
    if spec is None:
        return problems

    def wrong(message: str, field: str, got: object, allowed: str = "") -> None:
        problems.append(Problem(message, where, field, str(got), allowed))

    if engine.scheduler != "vllm":
        wrong("speculative decoding is modelled in the scheduler vllm", "engine.scheduler", engine.scheduler, "vllm")
    if plan.pipeline_parallel > 1:
        text = "speculative decoding is modelled for one pipeline stage"
        wrong(text, "plan.pipeline_parallel", plan.pipeline_parallel, "1")
    if engine.hybrid_kv_cache and deployment.model.window_layers:
        wrong("speculative decoding is modelled with one table of blocks", "engine.hybrid_kv_cache", "true", "false")
    if engine.max_num_batched_tokens <= 2 * spec.nodes:
        text = f"leaves no room for a request with {spec.nodes} drafted tokens"
        wrong(text, "engine.max_num_batched_tokens", engine.max_num_batched_tokens)
    try:
        drafter_of(deployment, where)
    except SpecError as error:
        problems += error.problems
    return problems


def draft_model(target: ModelSpec, spec: SpeculativeSpec, where: str = "") -> ModelSpec:
    """The drafter's model: what the user names, or layers of the target's own shape with its embedding and head.

    eagle takes one dense layer (arXiv:2401.15077, section 4.1), mtp one layer like the target's last
    (DeepSeek-V3, arXiv:2412.19437, section 2.2).
    """
    if spec.draft:
        found: ModelSpec = load("models", spec.draft, f"{where}: engine.speculative.draft" if where else "draft")
        if spec.method in OWN_MODEL and found.vocab < target.vocab // 2:
            text = f"drafts in a vocabulary of {found.vocab:,}, the model has {target.vocab:,}"
            raise SpecError(Problem(text, where, "engine.speculative.draft", spec.draft))
        return found
    changes: dict[str, object] = {"name": f"{target.name}-{spec.method}", "layers": 1, "linear": None}
    changes["window_layers"] = min(target.window_layers, 1) if target.window_layers == target.layers else 0
    if spec.method == "eagle":
        if not target.ffn:
            text = f"{target.name} has no dense layer to draft with; name the eagle model's config"
            raise SpecError(Problem(text, where, "engine.speculative.draft"))
        changes["moe"] = None
    elif target.moe is not None:
        changes["moe"] = target.moe.model_copy(update={"dense_layers": 0})
    return target.model_copy(update=changes)


def _plan(deployment: DeploymentSpec, model: ModelSpec, spec: SpeculativeSpec) -> PlanSpec:
    target = deployment.plan
    own = spec.method in OWN_MODEL
    degree = spec.draft_tensor_parallel or (1 if spec.method == "parallel" else target.tensor_parallel)
    if spec.method == "mtp":
        dtype = spec.draft_weight_dtype or target.weight_dtype
        compute = target.compute_dtype
    else:
        published = model.dtype if own and model.dtype in WEIGHT_ONLY else "bf16"
        dtype = spec.draft_weight_dtype or published
        expanded = dtype in WEIGHT_ONLY and dtype not in deployment.accelerator.peak_flops_per_s
        compute = "bf16" if expanded else None
    update: dict[str, object] = {
        "tensor_parallel": degree,
        "pipeline_parallel": 1,
        "weight_dtype": dtype,
        "compute_dtype": compute,
    }
    if spec.method == "parallel":
        update["attention_data_parallel"] = 1
    if model.moe is None or spec.method == "parallel":
        update["expert_parallel"] = 1
    return target.model_copy(update=update)
