"""The model specification: what it derives from a shape, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import Problem, SpecError
from windtunnel.specs.load import Collector, build, load, resolve
from windtunnel.specs.model import ModelSpec

TINY: dict[str, Any] = {
    "name": "tiny",
    "layers": 2,
    "hidden": 8,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 2,
    "ffn": 16,
    "vocab": 10,
    "max_context_tokens": 32,
}
MOE = {"experts": 4, "experts_per_token": 2, "expert_ffn": 6}
LATENT = {"kv_lora_rank": 6, "qk_nope_head_dim": 2, "qk_rope_head_dim": 1, "v_head_dim": 2}


def tiny(**over: Any) -> ModelSpec:
    return build(ModelSpec, {**TINY, **over}, "tiny.yaml")


def problems(**over: Any) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as raised:
        tiny(**over)
    return raised.value.problems


# Counts by hand for the tiny shape. Attention: q 8*8 + k, v 2*(8*4) + out 8*8 = 192.
# Gated MLP: 3*8*16 = 384. Norms: 2*8 = 16. Embedding and head: 2*10*8 = 160; last norm 8.


def test_dense_count_by_hand() -> None:
    assert tiny().parameters() == 2 * (192 + 384 + 16) + 160 + 8


@pytest.mark.parametrize(
    ("over", "difference"),
    [
        ({"tied_embeddings": True}, -80),
        ({"gated_mlp": False}, -2 * 8 * 16),
        ({"qkv_bias": True}, 2 * (8 + 4 + 4)),
        ({"attention_out_bias": True}, 2 * 8),
        ({"mlp_bias": True}, 2 * (16 + 16 + 8)),
        ({"head_bias": True}, 10),
        ({"qk_norm": True}, 2 * 2 * 2),
        ({"qk_norm": True, "qk_norm_over": "layer"}, 2 * (4 + 2) * 2),
        ({"attention_sinks": True}, 2 * 4),
        ({"norm": "layernorm"}, 2 * 16 + 8),
        ({"norms_per_layer": 4}, 2 * 16),
        ({"position": "learned", "learned_positions": 32}, 32 * 8),
        # both tables half as wide, and a projection in and one out
        ({"embedding_dim": 4}, -80 + 2 * 4 * 8),
    ],
)
def test_each_switch_by_hand(over: dict[str, Any], difference: int) -> None:
    assert tiny(**over).parameters() - tiny().parameters() == difference


def test_experts_by_hand() -> None:
    model = tiny(
        moe={**MOE, "shared_ffn": 5, "shared_gate": True, "dense_layers": 1, "router_bias": True, "expert_bias": True}
    )
    expert = 3 * 8 * 6 + (6 + 6 + 8)
    shared = 8 * 4 + 4 + 3 * 8 * 5 + 8
    assert (model.moe_layers, model.dense_layers) == (1, 1)
    assert model.expert_parameters() == expert
    assert model.parameters() == 2 * (192 + 16) + 384 + shared + 4 * expert + 168
    assert model.active_parameters() == model.parameters() - 2 * expert


def test_latent_attention_by_hand() -> None:
    # q 8*(4*3); down 8*(6+1) and its norm 6; up 6*4*(2+2); out 4*2*8
    model = tiny(kv_heads=4, latent=LATENT)
    assert model.attention_parameters() == 96 + 56 + 6 + 96 + 64
    assert model.kv_bytes_per_token(2.0) == 2 * (6 + 1) * 2
    # a query compressed to rank 5: 8*5 and its norm 5 and 5*12, for 8*12
    compressed = tiny(kv_heads=4, latent={**LATENT, "q_lora_rank": 5})
    assert compressed.attention_parameters() - model.attention_parameters() == 40 + 5 + 60 - 96


def test_sparse_index_by_hand() -> None:
    index = {"heads": 3, "head_dim": 2, "topk": 16}
    plain = tiny(kv_heads=4, latent={**LATENT, "q_lora_rank": 5})
    model = tiny(kv_heads=4, latent={**LATENT, "q_lora_rank": 5, "index": index})
    # queries 5*(3*2), key 8*2, head weights 8*3, the key's norm with its bias 2*2
    assert model.attention_parameters() - plain.attention_parameters() == 30 + 16 + 24 + 4
    # a key of 2 bytes and its scale of 4, whatever the format of the latents
    assert model.kv_bytes_per_token(2.0) - plain.kv_bytes_per_token(2.0) == 2 * (2 + 4)
    assert model.kv_bytes_per_token(1.0) - plain.kv_bytes_per_token(1.0) == 2 * (2 + 4)
    assert (model.attended_tokens, plain.attended_tokens) == (16, 0)
    assert tiny(window_tokens=4, window_layers=1).attended_tokens == 4


def test_an_index_needs_the_compressed_query() -> None:
    with pytest.raises(SpecError, match="index needs q_lora_rank"):
        tiny(kv_heads=4, latent={**LATENT, "index": {"heads": 3, "head_dim": 2, "topk": 16}})


def test_weight_bytes_of_two_formats() -> None:
    model = tiny(moe=MOE, dtype="mxfp4", dense_dtype="bf16")
    experts = 2 * 4 * 3 * 8 * 6
    assert model.published_weight_bytes() == experts * (0.5 + 1 / 32) + (model.parameters() - experts) * 2


@given(
    layers=st.integers(1, 64),
    kv_heads=st.integers(1, 16),
    group=st.integers(1, 16),
    head_dim=st.sampled_from([32, 64, 128, 256]),
    experts=st.integers(1, 64),
    data=st.data(),
)
def test_counts_hold_together(
    layers: int, kv_heads: int, group: int, head_dim: int, experts: int, data: st.DataObject
) -> None:
    per_token = data.draw(st.integers(1, experts))
    dense = data.draw(st.integers(0, layers))
    moe = {"experts": experts, "experts_per_token": per_token, "expert_ffn": 64, "dense_layers": dense}
    shape = {"layers": layers, "heads": kv_heads * group, "kv_heads": kv_heads, "head_dim": head_dim}
    model = tiny(**shape, moe=moe)
    assert 0 < model.active_parameters() <= model.parameters()
    assert (model.active_parameters() == model.parameters()) == (per_token == experts or dense == layers)
    assert model.moe_layers + model.dense_layers == layers
    assert model.kv_bytes_per_token(1.0) * 2 == model.kv_bytes_per_token(2.0)
    assert tiny(**{**shape, "layers": layers + 1}).parameters() > tiny(**shape).parameters()


def test_unknown_field_names_the_nearest() -> None:
    (problem,) = problems(hiden=8)
    assert problem.message == "unknown field"
    assert (problem.file, problem.path, problem.nearest) == ("tiny.yaml", "hiden", "hidden")
    assert "head_dim" in problem.allowed


def test_unknown_field_inside_a_part() -> None:
    (problem,) = problems(moe={**MOE, "expert_fnn": 6})
    assert (problem.path, problem.nearest) == ("moe.expert_fnn", "expert_ffn")
    assert "kv_heads" not in problem.allowed


def test_wrong_literal_lists_what_is_allowed() -> None:
    (problem,) = problems(norm="rmsnrom")
    assert problem.message == "not an allowed value"
    assert problem.nearest == "rmsnorm"
    assert "layernorm" in problem.allowed


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(layers=0, heads="many", dtype="bf61", hiden=3, moe={"experts": 4, "experts_per_token": -1})
    paths = {problem.path for problem in found}
    assert paths == {"layers", "heads", "dtype", "hiden", "moe.experts_per_token", "moe.expert_ffn"}
    text = str(SpecError(found))
    assert len(text.splitlines()) == 6
    assert all("tiny.yaml" in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"kv_heads": 3}, "heads (4) must be a multiple of kv_heads (3)"),
        ({"window_tokens": 4, "window_layers": 3}, "window_layers (3) exceeds layers (2)"),
        ({"window_layers": 1}, "window_layers needs window_tokens"),
        ({"ffn": 0}, "a dense model needs ffn"),
        ({"moe": {**MOE, "dense_layers": 3}}, "moe.dense_layers exceeds layers"),
        ({"moe": {**MOE, "experts_per_token": 5}}, "moe.experts_per_token exceeds moe.experts"),
    ],
)
def test_parts_that_do_not_fit_together(over: dict[str, Any], message: str) -> None:
    (problem,) = problems(**over)
    assert problem.message == message


def test_specs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny().layers = 3


def test_file_that_extends_a_catalogue_entry(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: qwen3-30b-a3b\nname: mine\nlayers: 4\nmoe:\n  experts_per_token: 4\n", encoding="utf-8")
    model = load("models", str(file))
    assert (model.name, model.layers, model.aliases) == ("mine", 4, ())
    assert (model.moe.experts, model.moe.experts_per_token) == (128, 4)


def test_file_with_mistakes_says_which_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: qwen3-8b\nname: mine\nlayer: 4\nnorm: batch\n", encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load("models", str(file))
    assert {problem.path for problem in raised.value.problems} == {"layer", "norm"}
    assert {problem.file for problem in raised.value.problems} == {str(file)}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1\n", "must hold a mapping"), ("extends: nothing-at-all\n", "unknown model")],
)
def test_files_that_are_no_model(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        load("models", str(file))


def test_missing_file_is_said() -> None:
    with pytest.raises(SpecError, match="cannot read the file"):
        load("models", "nowhere/mine.yaml")


def test_problems_of_several_loads_come_together() -> None:
    collect = Collector()
    with collect:
        resolve("models", "lama-3.1-8b")
    with collect:
        tiny(layers=0)
    with pytest.raises(SpecError) as raised:
        collect.check()
    assert [problem.nearest or problem.path for problem in raised.value.problems] == ["llama-3.1-8b", "layers"]
