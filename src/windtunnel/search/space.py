"""The space of plans: every layout, number format and main engine setting for one replica."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from windtunnel.search.question import Question
from windtunnel.specs.assemble import default_node, deployment_problems, scale_up_fabric, single_node
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.drafter import speculation_problems
from windtunnel.specs.fields import DTYPE_BYTES
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.step_extras import step_extra_problems
from windtunnel.techniques.apply import with_techniques

PIPELINE_DEGREES = (1, 2, 4)
HALF = ("bf16", "fp16")
KV_OF: dict[str, tuple[str, ...]] = {"fp8": ("bf16", "fp8"), "nvfp4": ("bf16", "fp8")}
"""KV cache formats tried beside a weight format; otherwise the half-precision one alone."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One replica of a candidate: a deployment with `replicas = 1`, and what is wrong with it, if anything."""

    deployment: DeploymentSpec
    problem: str = ""


def powers_of_two(limit: int) -> Iterator[int]:
    """1, 2, 4, ... up to a limit."""
    degree = 1
    while degree <= limit:
        yield degree
        degree *= 2


def plans_of(question: Question, accelerator: AcceleratorSpec, per_node: int) -> Iterator[PlanSpec]:
    """Every plan of one replica: TP inside a node, PP, EP for experts, weight and KV formats."""
    half = "bf16" if "bf16" in accelerator.peak_flops_per_s else "fp16"
    for tp in powers_of_two(min(per_node, question.max_accelerators)):
        for pp in PIPELINE_DEGREES:
            if tp * pp > question.max_accelerators:
                continue
            experts = {1, tp} if question.model.moe is not None else {1}
            for ep in sorted(experts):
                for weights in _weight_formats(question, half):
                    widened = weights in HALF or expands(accelerator, weights)
                    for kv in (half,) if widened else KV_OF.get(weights, (half,)):
                        yield PlanSpec(
                            tensor_parallel=tp,
                            pipeline_parallel=pp,
                            expert_parallel=ep,
                            weight_dtype=weights,
                            kv_dtype=half if kv in HALF else kv,
                            compute_dtype=half if widened else None,
                        )


def expands(accelerator: AcceleratorSpec, weights: str) -> bool:
    """Whether fp8 weights are stored as such and multiplied in bf16, since the device does not multiply fp8.

    Engines have such kernels for NVIDIA devices from Ampere on (vLLM's documentation, "FP8 W8A8": "Ampere GPUs are
    supported for W8A16 (weight-only FP8) utilizing Marlin kernels").
    """
    rates = accelerator.peak_flops_per_s
    return weights == "fp8" and "fp8" not in rates and "bf16" in rates and accelerator.vendor == "nvidia"


def _weight_formats(question: Question, half: str) -> tuple[str, ...]:
    """The asked formats; a model published in fewer bits is not blown up to more."""
    native = question.model.dtype
    wanted = [half if name in HALF else name for name in question.precisions]
    if native not in HALF and native != "fp32":
        wanted = [native, *(name for name in wanted if DTYPE_BYTES[name] < DTYPE_BYTES[native])]
    return tuple(dict.fromkeys(wanted))


def units(question: Question) -> Iterator[Unit]:
    """Every replica worth looking at, with the problem of those that cannot be.

    Techniques may make candidates alike that differ without them (one sets the weight format, say); each comes once.
    """
    seen = set()
    for accelerator in question.accelerators:
        node = default_node(accelerator.name) or single_node(accelerator)
        for plan in plans_of(question, accelerator, node.accelerators):
            for budget in question.token_budgets:
                engine = question.engine.model_copy(
                    update={
                        "max_num_batched_tokens": max(budget, question.engine.max_num_seqs),
                        "max_model_len": question.max_model_len,
                    }
                )
                deployment = DeploymentSpec(
                    model=question.model,
                    accelerator=accelerator,
                    node=node,
                    scale_up=scale_up_fabric(accelerator, node),
                    scale_out=resolve("fabrics", node.fabric or "ethernet-100g"),
                    plan=plan,
                    engine=engine,
                )
                if question.techniques:
                    deployment = with_techniques(deployment, question.techniques, check=False)
                    same = (accelerator.name, deployment.plan, deployment.engine.model_dump_json())
                    if same in seen:
                        continue
                    seen.add(same)
                yield _unit(deployment)


def with_slots(deployments: Iterable[DeploymentSpec], max_num_seqs: int) -> Iterator[Unit]:
    """One replica of each deployment with more requests at once, where that is more."""
    for deployment in deployments:
        engine = deployment.engine
        if max_num_seqs > engine.max_num_seqs:
            slots = {
                "max_num_seqs": max_num_seqs,
                "max_num_batched_tokens": max(engine.max_num_batched_tokens, max_num_seqs),
            }
            plan = deployment.plan.model_copy(update={"replicas": 1})
            yield _unit(deployment.model_copy(update={"plan": plan, "engine": engine.model_copy(update=slots)}))


def _unit(deployment: DeploymentSpec) -> Unit:
    problems = deployment_problems(deployment) + speculation_problems(deployment) + step_extra_problems(deployment)
    return Unit(deployment, "; ".join(f"{p.path} {p.got}: {p.message}" for p in problems))
