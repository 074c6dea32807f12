"""What LoRA adapters and early exit do not go with."""

from __future__ import annotations

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.deployment import DeploymentSpec


def check_step_extras(deployment: DeploymentSpec, where: str = "") -> None:
    """Raise a `SpecError` with everything in which the deployment does not go with its adapters or its early exit."""
    problems = step_extra_problems(deployment, where)
    if problems:
        raise SpecError(problems)


def step_extra_problems(deployment: DeploymentSpec, where: str = "") -> list[Problem]:
    """In what the deployment does not go with its adapters or its early exit."""
    return [*_lora_problems(deployment, where), *_depth_problems(deployment, where)]


def _lora_problems(deployment: DeploymentSpec, where: str) -> list[Problem]:
    engine, plan, model = deployment.engine, deployment.plan, deployment.model
    if engine.lora is None:
        return []
    problems: list[Problem] = []

    def wrong(message: str, field: str, got: object, allowed: str = "") -> None:
        problems.append(Problem(message, where, field, str(got), allowed))

    if engine.scheduler != "vllm":
        wrong("LoRA adapters are modelled in the scheduler vllm", "engine.scheduler", engine.scheduler, "vllm")
    if engine.speculative is not None:
        wrong("LoRA adapters are modelled without drafts", "engine.speculative", engine.speculative.method)
    if engine.depth is not None:
        wrong("LoRA adapters are modelled at full depth", "engine.depth", engine.depth.rule)
    for degree in ("pipeline_parallel", "attention_data_parallel"):
        if getattr(plan, degree) > 1:
            wrong("must be 1 with LoRA adapters", f"plan.{degree}", getattr(plan, degree), "1")
    if model.latent is not None or model.linear is not None:
        wrong("LoRA adapters are modelled on plain attention", "model", model.name)
    return problems


def _depth_problems(deployment: DeploymentSpec, where: str) -> list[Problem]:
    engine, plan, model = deployment.engine, deployment.plan, deployment.model
    spec = engine.depth
    if spec is None:
        return []
    problems: list[Problem] = []

    def wrong(message: str, field: str, got: object, allowed: str = "") -> None:
        problems.append(Problem(message, where, field, str(got), allowed))

    if spec.survival and len(spec.survival) != model.layers:
        text = f"must have a share per layer of {model.name}"
        wrong(text, "engine.depth.survival", f"{len(spec.survival)} shares", str(model.layers))
    if engine.speculative is not None:
        wrong("early exit is modelled without drafts", "engine.speculative", engine.speculative.method)
    if plan.pipeline_parallel > 1:
        text = "early exit is modelled for one pipeline stage"
        wrong(text, "plan.pipeline_parallel", plan.pipeline_parallel, "1")
    if model.attended_tokens:
        wrong("early exit is modelled without sliding windows or sparse attention", "model", model.name)
    return problems
