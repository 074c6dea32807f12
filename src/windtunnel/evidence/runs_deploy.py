"""The deployment that a run's folder describes."""

from __future__ import annotations

from typing import Any

from windtunnel.cost.measured.models import model_named
from windtunnel.errors import Problem, SpecError, TraceError
from windtunnel.evidence.runs_read import EngineRun
from windtunnel.specs.assemble import default_node, deployment, single_node
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.hardware import AcceleratorSpec, NodeSpec
from windtunnel.specs.load import names, resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "auto": "bf16"}
ENGINE = {
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "max_model_len": "max_model_len",
    "gpu_memory_utilization": "memory_utilization",
    "block_size": "block_size",
    "enable_prefix_caching": "enable_prefix_caching",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "long_prefill_token_threshold": "long_prefill_token_threshold",
    "async_scheduling": "async_scheduling",
    "scheduling_policy": "policy",
}
"""vLLM's arguments and the engine's fields that they are."""
STAGED_SHARE = 0.3
"""A stated link slower than this share of the bus cannot be cards that reach each other's memory."""


def deployment_of_run(run: EngineRun) -> tuple[DeploymentSpec, tuple[str, ...]]:
    """What ran, and what was assumed about it.

    Raises:
        TraceError: the folder does not say on what.
        SpecError: a name is unknown, or the parts do not fit together.
    """
    where = str(run.folder)
    accelerator = _accelerator(run)
    model = model_named(run.model, run.folder, where)
    plan = _plan(run, model)
    engine = _engine(run, model, plan.attention_data_parallel)
    node = default_node(accelerator.name) or single_node(accelerator)
    node, note = _node(run, node, accelerator) if plan.accelerators > 1 else (node, "")
    found = deployment(model, accelerator, plan=plan, engine=engine, node=node, where=where)
    return found, (note,) if note else ()


def _accelerator(run: EngineRun) -> AcceleratorSpec:
    """By the machine's description, else by the name of a folder above the run."""
    for name in (run.machine.accelerator, *(part.name for part in run.folder.resolve().parents)):
        if not name:
            continue
        try:
            found: AcceleratorSpec = resolve("accelerators", name)
        except SpecError:
            continue
        return found
    message = "neither config.json nor a folder's name says which accelerator it ran on"
    raise TraceError(Problem(message, str(run.folder), allowed="a name from `windtunnel catalogue accelerators`"))


def _plan(run: EngineRun, model: ModelSpec) -> PlanSpec:
    """Data-parallel engines of a model with experts share these; those of any other are replicas."""
    given = run.arguments
    tp, dp = int(given.get("tensor_parallel_size", 1)), int(given.get("data_parallel_size", 1))
    shares = model.moe is not None and dp > 1
    fields: dict[str, Any] = {
        "tensor_parallel": tp,
        "pipeline_parallel": int(given.get("pipeline_parallel_size", 1)),
        "attention_data_parallel": dp if shares else 1,
        "replicas": 1 if shares else dp,
        "expert_parallel": tp * dp if given.get("enable_expert_parallel") and model.moe is not None else 1,
        "weight_dtype": _dtype(given.get("quantization") or given.get("dtype", "auto")),
    }
    kv = str(given.get("kv_cache_dtype", "auto"))
    fields["kv_dtype"] = "fp8" if kv.startswith("fp8") else fields["weight_dtype"] if kv == "auto" else _dtype(kv)
    return PlanSpec.model_validate(fields)


def _dtype(name: object) -> str:
    return DTYPES.get(str(name), str(name))


def _engine(run: EngineRun, model: ModelSpec, groups: int) -> EngineSpec:
    """The preset of the engine's version with the run's arguments; the groups' schedulers taken together."""
    base: EngineSpec = resolve("engines", _preset(run.version))
    given: dict[str, Any] = {field: run.arguments[name] for name, field in ENGINE.items() if name in run.arguments}
    if "async_scheduling" in given:
        given["overlap_scheduling"] = given["async_scheduling"]
    given["graphs"] = not run.arguments.get("enforce_eager", not base.graphs)
    given.setdefault("max_model_len", model.max_context_tokens)
    engine = EngineSpec.model_validate({**base.model_dump(), **given})
    # Every group has a scheduler of its own; requests are dealt out to the least busy.
    return engine.model_copy(
        update={
            "max_num_seqs": engine.max_num_seqs * groups,
            "max_num_batched_tokens": engine.max_num_batched_tokens * groups,
            "capture_tokens": engine.capture_tokens * groups,
        }
    )


def _preset(version: str) -> str:
    """The catalogue's vLLM of this version, else the latest."""
    short = ".".join(version.split(".")[:2])
    return f"vllm-{short}" if f"vllm-{short}" in names("engines") else "vllm"


def _node(run: EngineRun, node: NodeSpec, accelerator: AcceleratorSpec) -> tuple[NodeSpec, str]:
    """The server, its cards without access to each other's memory when the stated link is too slow for that."""
    stated = run.machine.link_bytes_per_s
    if accelerator.scale_up or not 0 < stated < STAGED_SHARE * accelerator.host_link_bytes_per_s:
        return node, ""
    note = f"config.json gives the cards {stated / 1e9:.3g} GB/s to each other: traffic staged through the host"
    return node.model_copy(update={"peer_access": False, "staged_bytes_per_s": stated}), note
