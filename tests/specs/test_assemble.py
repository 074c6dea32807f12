"""Deployments from names and files, and what is wrong with a combination."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from windtunnel.errors import SpecError
from windtunnel.specs.assemble import default_node, deployment, load_deployment, single_node
from windtunnel.specs.load import names, resolve
from windtunnel.specs.plan import PlanSpec


def _file(folder: Path, **fields: object) -> Path:
    path = folder / "deployment.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def _problems(**given: object) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        deployment(**given)  # type: ignore[arg-type]
    found: dict[str, str] = {}
    for problem in caught.value.problems:
        found[problem.path] = f"{found.get(problem.path, '')}{problem}\n"
    return found


def test_defaults_come_from_the_catalogue() -> None:
    found = deployment("llama-3.1-8b", "h100-sxm")
    assert found.node.accelerator == "h100-sxm"
    assert found.plan.weight_dtype == "bf16"
    assert found.scale_up.bytes_per_s == found.accelerator.scale_up_bytes_per_s
    assert found.scale_out.name == found.node.fabric
    assert found.max_model_len == found.model.max_context_tokens


def test_a_quantised_model_keeps_its_format() -> None:
    assert deployment("gpt-oss-120b", "h100-sxm").plan.weight_dtype == "mxfp4"
    assert deployment("deepseek-v3", "h200-sxm").plan.weight_dtype == "fp8"


def test_names_that_are_wrong_are_reported_together() -> None:
    with pytest.raises(SpecError) as caught:
        deployment("llama-3.1-8", "h100-smx", engine="vlm", node="dgx-h10")
    found = {problem.file: problem.nearest for problem in caught.value.problems}
    assert found["--accelerator"] == "h100-sxm"
    assert found["--engine"] == "vllm"
    assert found["--node"] in names("nodes")
    assert len(found) == 4


def test_every_mistake_of_a_combination_is_reported_together() -> None:
    engine = resolve("engines", "vllm").model_copy(update={"max_model_len": 10**6})
    plan = PlanSpec(tensor_parallel=12, pipeline_parallel=64, expert_parallel=4, weight_dtype="fp8")
    found = _problems(model="llama-3.1-8b", accelerator="a100-80g-sxm", plan=plan, engine=engine)
    assert set(found) == {
        "plan.tensor_parallel",
        "plan.pipeline_parallel",
        "plan.expert_parallel",
        "plan.weight_dtype",
        "engine.max_model_len",
    }
    assert "exceeds the model's 32 layers" in found["plan.pipeline_parallel"]
    assert "the model has no experts" in found["plan.expert_parallel"]
    assert "at most 131072" in found["engine.max_model_len"]


def test_tensor_parallel_must_divide_the_heads() -> None:
    message = _problems(model="llama-3.1-8b", accelerator="h100-sxm", plan=PlanSpec(tensor_parallel=3))
    assert (
        "must divide the model's 32 query heads, got 3; allowed: 1, 2, 4, 8, 16, 32" in message["plan.tensor_parallel"]
    )


def test_tensor_parallel_may_exceed_the_kv_heads_by_a_multiple() -> None:
    assert deployment("llama-3.1-8b", "h100-sxm", plan=PlanSpec(tensor_parallel=16)).model.kv_heads == 8
    message = _problems(model="phi-4", accelerator="h100-sxm", plan=PlanSpec(tensor_parallel=4))
    assert "10 KV heads" in message["plan.tensor_parallel"]


def test_experts_must_divide() -> None:
    plan = PlanSpec(tensor_parallel=16, expert_parallel=16)
    message = _problems(model="mixtral-8x7b", accelerator="h100-sxm", plan=plan)
    assert "the model has 8 experts" in message["plan.expert_parallel"]


def test_fp8_on_a100_is_refused_with_what_is_allowed() -> None:
    message = _problems(model="llama-3.1-8b", accelerator="a100-80g-sxm", plan=PlanSpec(weight_dtype="fp8"))
    text = message["plan.weight_dtype"]
    assert "a100-80g-sxm does not compute in this format, got fp8" in text
    assert "bf16, fp16" in text
    assert "compute_dtype: bf16 keeps the weights so" in text


@pytest.mark.parametrize("weights", ["int4", "mxfp4"])
def test_weight_only_formats_run_anywhere(weights: str) -> None:
    found = deployment("llama-3.1-8b", "a100-80g-sxm", plan=PlanSpec(weight_dtype=weights))  # type: ignore[arg-type]
    assert found.plan.matmul_dtype == "bf16"


def test_fp8_weights_expanded_to_bf16_run_on_a100() -> None:
    plan = PlanSpec(weight_dtype="fp8", compute_dtype="bf16")
    assert deployment("llama-3.1-8b", "a100-80g-sxm", plan=plan).plan.matmul_dtype == "bf16"


@pytest.mark.parametrize("accelerator", ["v100-32g-sxm", "t4"])
def test_half_precision_is_fp16_where_there_is_no_bf16(accelerator: str) -> None:
    plan = deployment("llama-3.1-8b", accelerator).plan
    assert (plan.weight_dtype, plan.kv_dtype, plan.matmul_dtype) == ("fp16", "fp16", "fp16")
    expanded = deployment("llama-3.1-8b", accelerator, plan=PlanSpec(weight_dtype="int4")).plan
    assert (expanded.weight_dtype, expanded.matmul_dtype) == ("int4", "fp16")


def test_an_accelerator_of_ones_own_gets_a_node() -> None:
    own = resolve("accelerators", "h100-sxm").model_copy(update={"name": "own"})
    found = deployment("llama-3.1-8b", own)
    assert (found.node.name, found.node.accelerators, found.node.topology) == ("own-server", 8, "switch")
    assert single_node(own.model_copy(update={"scale_up_bytes_per_s": 0.0})).topology == "host"


def test_every_accelerator_and_node_makes_a_deployment() -> None:
    for name in names("accelerators"):
        node = default_node(name)
        assert node is not None, name
        found = deployment("llama-3.2-1b", name)
        assert found.scale_up.bytes_per_s > 0


def test_deployment_from_a_file(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        model={"extends": "llama-3.1-8b", "name": "short", "layers": 16},
        accelerator={"extends": "h100-sxm", "name": "own", "memory_bytes": "100 GB"},
        engine={"extends": "vllm", "max_num_seqs": 32},
        node="hgx-h200",
        plan={"tensor_parallel": 2, "weight_dtype": "fp8", "kv_dtype": "fp8"},
    )
    found = load_deployment(path)
    assert (found.model.name, found.model.layers) == ("short", 16)
    assert found.accelerator.memory_bytes == 100e9
    assert found.engine.max_num_seqs == 32
    assert found.node.name == "hgx-h200"
    assert found.plan.label() == "TP2 x1 fp8 kv-fp8"


def test_every_mistake_of_a_file_is_reported_together(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        model="lama-3.1-8b",
        accelerator={"extends": "h100-sxm", "memry_bytes": 1},
        engine={"extends": "vlm"},
        plan={"tensor_parallel": 0, "replica": 2},
    )
    with pytest.raises(SpecError) as caught:
        load_deployment(path)
    found = {f"{problem.file}: {problem.path}": problem for problem in caught.value.problems}
    assert len(found) == 5
    assert found[f"{path}: accelerator: memry_bytes"].nearest == "memory_bytes"
    assert found[f"{path}: plan: replica"].nearest == "replicas"
    assert found[f"{path}: model: "].nearest == "llama-3.1-8b"
    assert all(problem.file.startswith(str(path)) for problem in caught.value.problems)


def test_unknown_keys_of_a_file(tmp_path: Path) -> None:
    path = _file(tmp_path, model="llama-3.1-8b", acelerator="h100-sxm")
    with pytest.raises(SpecError) as caught:
        load_deployment(path)
    assert {(p.path, p.nearest) for p in caught.value.problems} == {("accelerator", ""), ("acelerator", "accelerator")}


def test_a_combination_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, model="llama-3.1-8b", accelerator="h100-sxm", plan={"tensor_parallel": 5})
    with pytest.raises(SpecError, match=r"deployment\.yaml: plan\.tensor_parallel: must divide"):
        load_deployment(path)


def test_a_native_format_that_the_device_lacks_is_expanded() -> None:
    plan = deployment("deepseek-v3", "a100-80g-sxm").plan
    assert (plan.weight_dtype, plan.matmul_dtype) == ("fp8", "bf16")


def test_a_catalogue_node_holds_what_it_is_sold_with() -> None:
    problem = _problems(model="llama-3.1-8b", accelerator="h100-sxm", node="dgx-a100-80g")["node"]
    assert "holds a100-80g-sxm, not h100-sxm" in problem
    assert "dgx-h100" in problem


def test_links_of_ones_own_must_be_known() -> None:
    own = resolve("accelerators", "h100-sxm").model_copy(update={"name": "own", "scale_up": "nvlink44"})
    node = resolve("nodes", "dgx-h100").model_copy(update={"fabric": "infiniband-ndx"})
    with pytest.raises(SpecError) as caught:
        deployment("llama-3.1-8b", own, node=node)
    found = {problem.file: problem.nearest for problem in caught.value.problems}
    assert set(found) == {"accelerator.scale_up", "node.fabric"}
    assert found["accelerator.scale_up"] == "nvlink4"
    assert found["node.fabric"].startswith("infiniband-")


def test_deployment_from_a_mapping() -> None:
    found = load_deployment({"model": "llama-3.1-8b", "accelerator": "l4", "plan": {"tensor_parallel": 2}})
    assert (found.accelerator.name, found.plan.tensor_parallel) == ("l4", 2)


def test_a_file_wrong_as_a_whole_has_its_parts_looked_at(tmp_path: Path) -> None:
    path = _file(tmp_path, model="lama-3.1-8b", accelerator="h100-sxm", enginee="vllm", plan={"replica": 2})
    with pytest.raises(SpecError) as caught:
        load_deployment(path)
    assert {p.nearest for p in caught.value.problems} == {"llama-3.1-8b", "engine", "replicas"}
