"""Put a deployment together from names, and check what no single spec can know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.engine import EngineSpec
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec, FabricSpec, NodeSpec
from windtunnel.specs.load import Collector, build, load, merged, names, read_yaml, resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec
from windtunnel.specs.step_extras import check_step_extras

WEIGHT_ONLY = ("int4", "mxfp4", "nvfp4", "fp4", "fp6", "fp8", "int8", "q4_k_m")
"""Weight formats that any accelerator can store and expand to bf16 or fp16 on the fly."""


class DeploymentFile(Spec):
    """A deployment as a user writes it: names or whole mappings, and a plan."""

    model: str | dict[str, Any]
    accelerator: str | dict[str, Any]
    node: str | dict[str, Any] = ""
    plan: dict[str, Any] = {}
    engine: str | dict[str, Any] = "vllm"
    techniques: tuple[str, ...] = ()


@cache
def default_node(accelerator: str) -> NodeSpec | None:
    """The catalogue's node that holds this accelerator (the first by name), or None."""
    for name in names("nodes"):
        node: NodeSpec = resolve("nodes", name)
        if node.accelerator == accelerator:
            return node
    return None


def single_node(accelerator: AcceleratorSpec) -> NodeSpec:
    """A node of eight for an accelerator of the user's own, wired as its links say."""
    return NodeSpec(
        name=f"{accelerator.name}-server",
        accelerator=accelerator.name,
        accelerators=8,
        topology="switch" if accelerator.scale_up_bytes_per_s else "host",
        nics=1,
        nic_bytes_per_s=12.5e9,
        fabric="ethernet-100g",
    )


def deployment(
    model: str | ModelSpec,
    accelerator: str | AcceleratorSpec,
    *,
    plan: PlanSpec | None = None,
    engine: str | EngineSpec = "vllm",
    node: str | NodeSpec | None = None,
    techniques: Sequence[str] = (),
    where: str = "",
) -> DeploymentSpec:
    """A deployment from names or specs, checked as a whole.

    Args:
        model: catalogue name, path of a config.json or YAML, or a spec.
        accelerator: catalogue name, YAML path or spec.
        plan: parallel layout and number formats; default one accelerator in the model's own format.
        engine: catalogue name, YAML path or spec.
        node: the server; default the catalogue's node of this accelerator.
        techniques: names of techniques switched on.
        where: file or flag named in error messages.

    Raises:
        SpecError: every mistake, together.
    """
    collect = Collector()
    found: dict[str, Any] = {}
    for kind, key, value in (
        ("models", "model", model),
        ("accelerators", "accelerator", accelerator),
        ("engines", "engine", engine),
    ):
        with collect:
            found[key] = load(kind, value, where or f"--{key}") if isinstance(value, str) else value
    if isinstance(node, str) and node:
        with collect:
            node = load("nodes", node, where or "--node")
    collect.check()
    device: AcceleratorSpec = found["accelerator"]
    server = node if isinstance(node, NodeSpec) else default_node(device.name) or single_node(device)
    with collect:
        found["scale_up"] = scale_up_fabric(device, server, where)
    with collect:
        found["scale_out"] = resolve("fabrics", server.fabric or "ethernet-100g", _at(where, "node.fabric"))
    collect.problems.extend(_node_problems(device, server, where))
    collect.check()
    result = DeploymentSpec(
        model=found["model"],
        accelerator=device,
        node=server,
        scale_up=found["scale_up"],
        scale_out=found["scale_out"],
        plan=half_precision(plan or native_plan(found["model"], device), device),
        engine=found["engine"],
        techniques=tuple(techniques),
    )
    problems = deployment_problems(result, where)
    if problems:
        raise SpecError(problems)
    check_step_extras(result, where)
    if result.engine.speculative is not None:
        from windtunnel.specs.drafter import check_speculation  # the drafter is a deployment too

        check_speculation(result, where)
    return result


def native_plan(model: ModelSpec, device: AcceleratorSpec) -> PlanSpec:
    """One accelerator and the model's own weight format, expanded to bf16 where the device lacks it."""
    plan = PlanSpec(weight_dtype=model.dtype if model.dtype in WEIGHT_ONLY else "bf16")
    if plan.weight_dtype in WEIGHT_ONLY and plan.matmul_dtype not in device.peak_flops_per_s:
        return plan.model_copy(update={"compute_dtype": "bf16"})
    return plan


def _at(where: str, field: str) -> str:
    return f"{where}: {field}" if where else field


def _node_problems(device: AcceleratorSpec, node: NodeSpec, where: str) -> list[Problem]:
    """A catalogue node holds what it is sold with; accelerators of the user's own may sit anywhere."""
    if node.accelerator == device.name or {node.accelerator, device.name} - set(names("accelerators")):
        return []
    fitting = [name for name in names("nodes") if resolve("nodes", name).accelerator == device.name]
    message = f"the node holds {node.accelerator}, not {device.name}"
    return [Problem(message, where, "node", node.name, ", ".join(fitting))]


def half_precision(plan: PlanSpec, device: AcceleratorSpec) -> PlanSpec:
    """The plan with fp16 where it says bf16 and the device has no bf16 (V100, T4)."""
    if "bf16" in device.peak_flops_per_s or "fp16" not in device.peak_flops_per_s:
        return plan
    changed: dict[str, Any] = {key: "fp16" for key in ("weight_dtype", "kv_dtype") if getattr(plan, key) == "bf16"}
    if plan.matmul_dtype == "bf16":
        changed["compute_dtype"] = "fp16"
    return plan.model_copy(update=changed)


def scale_up_fabric(device: AcceleratorSpec, node: NodeSpec, where: str = "") -> FabricSpec:
    """The link between accelerators of the node, at the rate that this device has."""
    field = "scale_up" if device.scale_up and node.topology != "host" else "host_link"
    name = getattr(device, field)
    fabric: FabricSpec = resolve("fabrics", name, _at(where, f"accelerator.{field}"))
    rate = device.scale_up_bytes_per_s if name == device.scale_up else device.host_link_bytes_per_s
    return fabric.model_copy(update={"bytes_per_s": rate})


def deployment_problems(deployment: DeploymentSpec, where: str = "") -> list[Problem]:
    """What is wrong with the combination: divisibility, number formats, node size, context."""
    model, plan, device = deployment.model, deployment.plan, deployment.accelerator
    tp, problems = plan.tensor_parallel, []

    def wrong(message: str, field: str, got: object, allowed: str) -> None:
        problems.append(Problem(message, where, field, str(got), allowed))

    if model.heads % tp:
        wrong(f"must divide the model's {model.heads} query heads", "plan.tensor_parallel", tp, _divisors(model.heads))
    elif model.latent is None and model.kv_heads % tp and tp % model.kv_heads:
        wrong(
            f"must divide, or be a multiple of, the model's {model.kv_heads} KV heads", "plan.tensor_parallel", tp, ""
        )
    width = model.moe.expert_ffn if model.moe is not None else model.ffn
    sharded = plan.ranks_per_stage // plan.expert_parallel if model.moe is not None else tp
    if width % sharded:
        wrong(f"must divide the MLP width {width}", "plan.tensor_parallel", tp, "")
    if plan.pipeline_parallel > model.layers:
        wrong(f"exceeds the model's {model.layers} layers", "plan.pipeline_parallel", plan.pipeline_parallel, "")
    if plan.expert_parallel > 1 and (model.moe is None or model.moe.experts % plan.expert_parallel):
        experts = "no experts" if model.moe is None else f"{model.moe.experts} experts"
        wrong(f"must divide the experts; the model has {experts}", "plan.expert_parallel", plan.expert_parallel, "")
    if plan.attention_data_parallel > 1 and model.moe is None:
        allowed = "1 for a model without experts; replicas are copies"
        wrong("needs experts to share", "plan.attention_data_parallel", plan.attention_data_parallel, allowed)
    if plan.matmul_dtype not in device.peak_flops_per_s:
        known = ", ".join(sorted(device.peak_flops_per_s))
        if plan.compute_dtype is None and plan.weight_dtype in WEIGHT_ONLY:
            known += "; compute_dtype: bf16 keeps the weights so and expands them"
        field = "plan.weight_dtype" if plan.compute_dtype is None else "plan.compute_dtype"
        wrong(f"{device.name} does not compute in this format", field, plan.matmul_dtype, known)
    if deployment.engine.max_model_len > model.max_context_tokens:
        limit = f"at most {model.max_context_tokens}"
        wrong("exceeds the model's context", "engine.max_model_len", deployment.engine.max_model_len, limit)
    return problems


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, min(number, 128) + 1) if number % d == 0)


def load_deployment(given: str | Path | Mapping[str, Any]) -> DeploymentSpec:
    """A deployment from a YAML file, or the mapping that one holds.

    Its fields are `model`, `accelerator` and optionally `node`, `plan`, `engine` and `techniques`.

    Raises:
        SpecError: every mistake in the file, together.
    """
    if isinstance(given, Mapping):
        return deployment_of(given, "deployment")
    return deployment_of(read_yaml(Path(given)), str(given))


def deployment_of(data: Mapping[str, Any], file: str) -> DeploymentSpec:
    """As `load_deployment`, from the mapping that the file holds."""
    collect = Collector()
    # A file that is wrong as a whole still has its parts looked at, so that it is mended once.
    given: DeploymentFile | None = None
    with collect:
        given = build(DeploymentFile, data, file)
    parts: dict[str, Any] = {}
    kinds: tuple[tuple[str, type[Spec]], ...] = (
        ("model", ModelSpec),
        ("accelerator", AcceleratorSpec),
        ("engine", EngineSpec),
        ("node", NodeSpec),
    )
    for key, spec in kinds:
        value = getattr(given, key) if given is not None else data.get(key, "")
        if isinstance(value, str | dict):
            with collect:
                parts[key] = _part(key, spec, value, file)
    plan = given.plan if given is not None else data.get("plan")
    if isinstance(plan, dict):
        with collect:
            parts["plan"] = build(PlanSpec, plan, f"{file}: plan") if plan else None
    collect.check()
    assert given is not None  # else its problems were raised
    return deployment(
        parts["model"],
        parts["accelerator"],
        plan=parts["plan"],
        engine=parts["engine"],
        node=parts["node"],
        techniques=given.techniques,
        where=file,
    )


def _part(key: str, spec: type[Spec], value: str | dict[str, Any], file: str) -> Any:
    kind = f"{key}s"
    if isinstance(value, str):
        return load(kind, value, f"{file}: {key}") if value else None
    base: dict[str, Any] = {}
    if "extends" in value:
        base = load(kind, str(value["extends"]), f"{file}: {key}.extends").model_dump(exclude_unset=True)
        base.pop("aliases", None)
    return build(spec, merged(base, {k: v for k, v in value.items() if k != "extends"}), f"{file}: {key}")
