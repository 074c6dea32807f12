"""Hugging Face configurations read as models: every family, number formats, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import SpecError
from windtunnel.specs.hf_config import family_of, read_hf_config
from windtunnel.specs.hf_quantization import published_dtypes
from windtunnel.specs.load import load, resolve
from windtunnel.specs.model import ModelSpec

CONFIGS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("hf_configs.json").read_text(encoding="utf-8"))
"""The keys that matter of published configurations, under the catalogue's name for each model."""

LLAMA = CONFIGS["llama-2-7b"]


def written(folder: Path, config: object, name: str = "config.json") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


def read(folder: Path, **over: Any) -> ModelSpec:
    return read_hf_config(written(folder, {**LLAMA, **over}))


def problems(folder: Path, config: object) -> dict[str, str]:
    with pytest.raises(SpecError) as raised:
        read_hf_config(written(folder, config))
    assert all(problem.file == str(folder / "config.json") for problem in raised.value.problems)
    return {problem.path: problem.message for problem in raised.value.problems}


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_gives_the_catalogue_entry(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    written(folder, CONFIGS[name])
    described = {"title", "aliases", "sources", "published_parameters"}
    found = load("models", str(folder))
    assert found.model_dump(exclude=described) == resolve("models", name).model_dump(exclude=described)
    assert found.sources[0].kind == "published"


def test_named_after_folder_or_file(tmp_path: Path) -> None:
    assert read_hf_config(written(tmp_path / "my-model", LLAMA)).name == "my-model"
    assert load("models", str(written(tmp_path, LLAMA, "other_config.json"))).name == "other"


def test_unknown_type_with_the_common_keys_is_read_as_llama(tmp_path: Path) -> None:
    assert read(tmp_path, model_type="brand_new").parameters() == 6_738_415_616
    assert family_of("brand_new") == {}


def test_missing_keys_are_said_together(tmp_path: Path) -> None:
    found = problems(tmp_path, {"model_type": "brand_new", "hidden_size": "wide", "num_attention_heads": 4.5})
    assert set(found) == {
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    }
    assert found["num_hidden_layers"] == "missing key"
    assert found["hidden_size"] == "must be a whole number"


def test_a_file_that_is_no_model_configuration(tmp_path: Path) -> None:
    assert len(problems(tmp_path, {"hello": 1})) == 6
    assert "no model_type" in problems(tmp_path, {"hello": 1})["vocab_size"]
    assert "must hold a mapping" in problems(tmp_path, [1])[""]
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match="not valid JSON"):
        read_hf_config(tmp_path)
    with pytest.raises(SpecError, match="cannot read the file"):
        load("models", str(tmp_path / "absent.json"))


def test_shape_that_does_not_hold_together(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"multiple of kv_heads \(5\)"):
        read(tmp_path, num_key_value_heads=5)


@pytest.mark.parametrize(
    ("over", "key"),
    [
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*"}, "hybrid_override_pattern"),
        ({"model_type": "mamba2", "state_size": 128}, "state_size"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "brand_new", "index_topk": 2048}, "index_topk"),
        ({"model_type": "glm_moe_dsa", "index_topk_freq": 4}, "index_topk_freq"),
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}, "layer_types"),
        ({"model_type": "minimax", "attn_type_list": [0, 1]}, "attn_type_list"),
        ({"model_type": "wide_keys", "head_dim": 192, "v_head_dim": 128}, "v_head_dim"),
    ],
)
def test_what_cannot_be_expressed_is_refused(tmp_path: Path, over: dict[str, Any], key: str) -> None:
    assert key in problems(tmp_path, {**LLAMA, **over})


@pytest.mark.parametrize(
    ("over", "layers"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, 32),
        ({"model_type": "mistral", "sliding_window": None}, 0),
        ({"model_type": "llama", "sliding_window": 4096}, 0),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}, 0),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, 4),
        ({"model_type": "cohere2", "sliding_window": 4096}, 24),
        ({"model_type": "gemma2", "sliding_window": 4096}, 16),
        ({"model_type": "gemma3_text", "sliding_window": 1024}, 27),
        ({"model_type": "gemma3_text", "sliding_window": 1024, "sliding_window_pattern": 4}, 24),
        ({"model_type": "exaone4", "sliding_window": 4096, "sliding_window_pattern": "LLLG"}, 24),
        (
            {
                "model_type": "any",
                "sliding_window": 64,
                "layer_types": ["sliding_attention"] * 5 + ["full_attention"] * 27,
            },
            5,
        ),
    ],
)
def test_windowed_layers(tmp_path: Path, over: dict[str, Any], layers: int) -> None:
    assert read(tmp_path, **over).window_layers == layers


@pytest.mark.parametrize(
    ("over", "dense"),
    [
        ({"first_k_dense_replace": 3}, 3),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, 17),
        ({"moe_layer_freq": [0, 0] + [1] * 30}, 2),
        ({"decoder_sparse_step": 2}, 16),
        ({"mlp_only_layers": [0, 5]}, 2),
        ({"moe_layers": list(range(1, 32, 2))}, 16),
        ({}, 0),
    ],
)
def test_layers_without_experts(tmp_path: Path, over: dict[str, Any], dense: int) -> None:
    model = read(tmp_path, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=512, **over)
    assert model.dense_layers == dense


def test_biases_norms_and_residuals(tmp_path: Path) -> None:
    llama = read(tmp_path, attention_bias=True, mlp_bias=True)
    assert (llama.qkv_bias, llama.attention_out_bias, llama.mlp_bias) == (True, True, True)
    glm = read(tmp_path, model_type="glm4_moe", attention_bias=True)
    assert (glm.qkv_bias, glm.attention_out_bias) == (True, False)
    stablelm = read(tmp_path, model_type="stablelm", use_qkv_bias=True, use_parallel_residual=True)
    assert (stablelm.norm, stablelm.qkv_bias, stablelm.parallel_attention) == ("layernorm", True, True)
    assert read(tmp_path, model_type="gpt_neox", use_parallel_residual=False).parallel_attention is False
    starcoder = read(tmp_path, model_type="starcoder2")
    assert (starcoder.mlp_bias, starcoder.gated_mlp, starcoder.tied_embeddings) == (True, False, True)
    mpt = read(tmp_path, model_type="mpt", attn_config={"alibi": False, "kv_n_heads": 8})
    assert (mpt.position, mpt.learned_positions, mpt.kv_heads) == ("learned", 4096, 8)
    falcon = read(tmp_path, model_type="falcon", multi_query=False, parallel_attn=False, alibi=True)
    assert (falcon.kv_heads, falcon.parallel_attention, falcon.position) == (32, False, "alibi")
    assert falcon.norms_per_layer == 2


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "fp8", "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            },
            "nvfp4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
            },
            "int4",
        ),
        ({}, "fp16"),
    ],
)
def test_number_formats(quantization: dict[str, Any], dtype: str) -> None:
    assert published_dtypes({"torch_dtype": "float16", "quantization_config": quantization}, False) == {"dtype": dtype}


def test_experts_alone_in_four_bits() -> None:
    keys = {
        "dtype": "bfloat16",
        "quantization_config": {"quant_algo": "NVFP4", "exclude_modules": ["model.0.self_attn*"]},
    }
    assert published_dtypes(keys, True) == {"dtype": "nvfp4", "dense_dtype": "bf16"}
    assert published_dtypes(keys, False) == {"dtype": "nvfp4"}


def test_quantisation_beside_the_configuration(tmp_path: Path) -> None:
    written(tmp_path, {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}, "hf_quant_config.json")
    assert read(tmp_path).dtype == "fp8"


def test_unknown_number_formats_are_said(tmp_path: Path) -> None:
    odd = {**LLAMA, "quantization_config": {"quant_method": "magic"}}
    assert problems(tmp_path, odd) == {"quantization_config": "unknown quantisation 'magic'"}
    three = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 3}}
    assert problems(tmp_path, three) == {"quantization_config": "unknown weight width of 3 bits"}
    assert "unknown torch_dtype 'float7'" in problems(tmp_path, {**LLAMA, "torch_dtype": "float7"}).values()
