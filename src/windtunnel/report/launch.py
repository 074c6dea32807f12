"""Launch commands of a deployment for vLLM and SGLang.

Flags as documented by vLLM 0.32 (`vllm serve --help`) and SGLang's "Server Arguments" page.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from windtunnel.report.launch_speculative import sglang_speculation, vllm_speculation
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.model import ModelSpec

_WIDTH_16 = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_CHECKPOINT = {
    "int4": "a 4-bit checkpoint (AWQ or GPTQ)",
    "int8": "an 8-bit integer checkpoint (w8a8)",
    "nvfp4": "an NVFP4 checkpoint",
    "mxfp4": "an MXFP4 checkpoint",
    "fp4": "a 4-bit floating point checkpoint",
    "fp6": "a 6-bit floating point checkpoint",
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one engine.

    Attributes:
        engine: `vLLM` or `SGLang`.
        arguments: the command, one word each.
        copies: how many times to start it, each on accelerators of its own.
        notes: what the command cannot say.
    """

    engine: str
    arguments: tuple[str, ...]
    copies: int = 1
    notes: tuple[str, ...] = ()

    def text(self, width: int = 78) -> str:
        """The command over several lines, a backslash at the end of each but the last."""
        lines, line = [], ""
        for word in _grouped(self.arguments):
            if line and len(line) + 1 + len(word) > width - 2:
                lines.append(line + " \\")
                line = "  " + word
            else:
                line = f"{line} {word}" if line else word
        return "\n".join([*lines, line])


def _grouped(arguments: tuple[str, ...]) -> list[str]:
    """Flags together with their values, quoted for a shell."""
    words: list[str] = []
    for argument in map(shlex.quote, arguments):
        if words and words[-1].startswith("--") and " " not in words[-1] and not argument.startswith("--"):
            words[-1] += " " + argument
        else:
            words.append(argument)
    return words


def checkpoint_name(model: ModelSpec) -> str:
    """The name to download a model by: its first alias of the form `owner/name`, else its own."""
    return next((alias for alias in model.aliases if alias.count("/") == 1), model.name)


def launches(deployment: DeploymentSpec, asked: str = "") -> tuple[Launch, ...]:
    """The commands for both engines, the deployment's own engine first.

    Args:
        deployment: what to start.
        asked: the model's name as the user gave it; used when it is one that can be downloaded.
    """
    served = asked if asked.count("/") == 1 and not asked.endswith((".yaml", ".json")) else ""
    both = (vllm(deployment, served), sglang(deployment, served))
    return both[::-1] if deployment.engine.name.casefold().startswith("sglang") else both


def _one_server(deployment: DeploymentSpec) -> bool:
    """Whether one server process can hold all replicas: they fit a node and are independent in it.

    With experts, data-parallel ranks of one server run their expert layers in lock-step, which
    is another deployment than independent replicas.
    """
    return deployment.plan.accelerators <= deployment.node.accelerators and deployment.model.moe is None


def _replica_note(deployment: DeploymentSpec) -> str:
    plan = deployment.plan
    why = (
        "experts would tie data-parallel ranks together"
        if deployment.model.moe is not None and plan.accelerators <= deployment.node.accelerators
        else f"{plan.accelerators} accelerators do not fit one node of {deployment.node.accelerators}"
    )
    each = plan.accelerators_per_replica
    unit = "accelerator" if each == 1 else "accelerators"
    return f"start {plan.replicas} of these, each on {each} {unit} of its own, behind a load balancer ({why})"


def _span_note(deployment: DeploymentSpec) -> list[str]:
    plan, node = deployment.plan, deployment.node
    if plan.accelerators_per_replica <= node.accelerators:
        return []
    nodes = -(-plan.accelerators_per_replica // node.accelerators)
    return [f"one replica spans {nodes} nodes: set up the engine's multi-node launch (Ray, or a rank per node) first"]


def _weight_notes(deployment: DeploymentSpec) -> list[str]:
    dtype = deployment.plan.weight_dtype
    if dtype == deployment.model.dtype:
        return []
    if deployment.model.dtype not in _WIDTH_16:
        return [f"{dtype} weights: the published ones are {deployment.model.dtype}; point at a converted checkpoint"]
    if dtype == "fp8":
        return ["fp8 weights: a checkpoint already stored in fp8 loads faster and needs no quantization flag"]
    if dtype in _CHECKPOINT:
        return [f"{dtype} weights: point the model at {_CHECKPOINT[dtype]}; the engine recognises its format"]
    return []


def vllm(deployment: DeploymentSpec, served: str = "") -> Launch:
    """`vllm serve ...`."""
    plan, engine = deployment.plan, deployment.engine
    words = ["vllm", "serve", served or checkpoint_name(deployment.model)]
    notes = _weight_notes(deployment) + _span_note(deployment)
    words += ["--dtype", _WIDTH_16.get(plan.weight_dtype, "bfloat16")]
    if plan.weight_dtype == "fp8" and deployment.model.dtype != "fp8":
        words += ["--quantization", "fp8"]
    if plan.kv_dtype == "fp8":
        words += ["--kv-cache-dtype", "fp8"]
    if plan.tensor_parallel > 1:
        words += ["--tensor-parallel-size", str(plan.tensor_parallel)]
    if plan.pipeline_parallel > 1:
        words += ["--pipeline-parallel-size", str(plan.pipeline_parallel)]
    if plan.expert_parallel > 1:
        words += ["--enable-expert-parallel"]
        if plan.expert_parallel != plan.tensor_parallel:
            notes.append(f"vLLM spreads experts over all {plan.tensor_parallel} tensor-parallel ranks")
    copies = 1
    if plan.replicas > 1 and _one_server(deployment):
        words += ["--data-parallel-size", str(plan.replicas)]
    elif plan.replicas > 1:
        copies = plan.replicas
        notes.append(_replica_note(deployment))
    words += [
        "--max-num-seqs",
        str(engine.max_num_seqs),
        "--max-num-batched-tokens",
        str(engine.max_num_batched_tokens),
    ]
    words += ["--gpu-memory-utilization", f"{engine.memory_utilization:g}"]
    if engine.max_model_len:
        words += ["--max-model-len", str(engine.max_model_len)]
    if engine.block_size != 16:
        words += ["--block-size", str(engine.block_size)]
    if engine.long_prefill_token_threshold:
        words += ["--long-prefill-token-threshold", str(engine.long_prefill_token_threshold)]
    if engine.policy != "fcfs":
        words += ["--scheduling-policy", engine.policy]
    if not engine.enable_chunked_prefill:
        words += ["--no-enable-chunked-prefill"]
    if not engine.enable_prefix_caching:
        words += ["--no-enable-prefix-caching"]
    if not engine.graphs:
        words += ["--enforce-eager"]
    drafting, said = vllm_speculation(deployment)
    if engine.lora is not None:
        lora = engine.lora
        words += ["--enable-lora", "--max-loras", str(lora.max_loras), "--max-lora-rank", str(lora.rank)]
        words += ["--max-cpu-loras", str(lora.adapters)]
    return Launch("vLLM", (*words, *drafting), copies, (*notes, *said, *_depth_note(deployment)))


def _depth_note(deployment: DeploymentSpec) -> list[str]:
    return ["early exit has no flag: it is a property of the model's code"] if deployment.engine.depth else []


def sglang(deployment: DeploymentSpec, served: str = "") -> Launch:
    """`python -m sglang.launch_server ...`."""
    plan, engine = deployment.plan, deployment.engine
    words = ["python", "-m", "sglang.launch_server", "--model-path", served or checkpoint_name(deployment.model)]
    notes = _weight_notes(deployment) + _span_note(deployment)
    words += ["--dtype", _WIDTH_16.get(plan.weight_dtype, "bfloat16")]
    if plan.weight_dtype == "fp8" and deployment.model.dtype != "fp8":
        words += ["--quantization", "fp8"]
    if plan.kv_dtype == "fp8":
        words += ["--kv-cache-dtype", "fp8_e4m3"]
    if plan.tensor_parallel > 1:
        words += ["--tp-size", str(plan.tensor_parallel)]
    if plan.pipeline_parallel > 1:
        words += ["--pp-size", str(plan.pipeline_parallel)]
    if plan.expert_parallel > 1:
        words += ["--ep-size", str(plan.expert_parallel)]
    copies = 1
    if plan.replicas > 1 and _one_server(deployment):
        words += ["--dp-size", str(plan.replicas)]
    elif plan.replicas > 1:
        copies = plan.replicas
        notes.append(_replica_note(deployment))
    words += ["--max-running-requests", str(engine.max_num_seqs), "--chunked-prefill-size"]
    words += [str(engine.max_num_batched_tokens) if engine.enable_chunked_prefill else "-1"]
    words += ["--mem-fraction-static", f"{engine.memory_utilization:g}"]
    notes.append("mem-fraction-static leaves activations out; lower it if start-up runs out of memory")
    if engine.max_model_len:
        words += ["--context-length", str(engine.max_model_len)]
    if engine.policy == "priority":
        words += ["--enable-priority-scheduling", "--schedule-low-priority-values-first"]
    if not engine.enable_prefix_caching:
        words += ["--disable-radix-cache"]
    if not engine.graphs:
        words += ["--disable-cuda-graph"]
    drafting, said = sglang_speculation(deployment)
    if engine.lora is not None:
        words += ["--enable-lora", "--max-loras-per-batch", str(engine.lora.max_loras)]
        words += ["--max-lora-rank", str(engine.lora.rank)]
    return Launch("SGLang", (*words, *drafting), copies, (*notes, *said, *_depth_note(deployment)))
