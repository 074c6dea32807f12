"""Read a Hugging Face config.json as a model specification."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from windtunnel.errors import Problem, SpecError, shorten
from windtunnel.specs.hf_quantization import published_dtypes
from windtunnel.specs.load import build, merged
from windtunnel.specs.model import ModelSpec

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads")
FFN = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
PER_TOKEN = ("num_experts_per_tok", "top_k_experts", "moe_top_k", "moe_k")
SHARED = ("n_shared_experts", "num_shared_experts")


def read_hf_config(path: Path) -> ModelSpec:
    """The model that a Hugging Face configuration describes.

    Args:
        path: a config.json, or a folder holding one (its hf_quant_config.json is read too).

    Raises:
        SpecError: the file cannot be read, the architecture is outside `ModelSpec`, or keys are
            missing or wrong; all of that is reported together.
    """
    file = path / "config.json" if path.is_dir() else path
    whole = _read_json(file)
    quantization = file.with_name(file.name.removesuffix("config.json") + "hf_quant_config.json")
    if quantization.is_file():
        whole.setdefault("quantization_config", _read_json(quantization).get("quantization"))
    return _Config(whole, file).spec(_name_of(path, whole))


def _name_of(path: Path, whole: dict[str, Any]) -> str:
    named = str(whole.get("_name_or_path") or "").rstrip("/")
    if path.is_dir() or path.name == "config.json":
        folder = path.resolve() if path.is_dir() else path.resolve().parent
        return folder.name or named or "model"
    return path.stem.removesuffix("_config") or "model"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(Problem(f"cannot read the file ({error.strerror or error})", str(file))) from None
    except ValueError as error:
        raise SpecError(Problem(f"not valid JSON ({error})", str(file))) from None
    if not isinstance(data, dict):
        raise SpecError(Problem("the file must hold a mapping of keys", str(file), got=type(data).__name__))
    return data


@cache
def _families() -> dict[str, Any]:
    text = (files("windtunnel") / "catalogue" / "hf_families.yaml").read_text(encoding="utf-8")
    families: dict[str, Any] = yaml.safe_load(text)
    return families


def family_of(model_type: str) -> dict[str, Any]:
    """What a model type implies: traits, absent keys, window pattern; Llama's for an unknown type."""
    entry = dict(_families().get(model_type, {}))
    parent = entry.pop("like", None)
    return merged(family_of(parent), entry) if parent else entry


class _Config:
    """One configuration: looks keys up under their several names and gathers what is wrong."""

    def __init__(self, whole: dict[str, Any], file: Path) -> None:
        nested = [whole[key] for key in ("text_config", "llm_config") if isinstance(whole.get(key), dict)]
        text: dict[str, Any] = nested[0] if nested else {}
        self.file = str(file)
        self.problems: list[Problem] = []
        self.type = str(text.get("model_type") or whole.get("model_type") or "")
        self.family = family_of(self.type)
        outer = {} if text and "hidden_size" in text else whole
        attention = whole["attn_config"] if isinstance(whole.get("attn_config"), dict) else {}
        both = ("quantization_config", "torch_dtype", "dtype", "tie_word_embeddings")
        shared = {key: whole[key] for key in both if key in whole}
        given = {key: value for key, value in {**shared, **outer, **attention, **text}.items() if value is not None}
        self.keys: dict[str, Any] = {**self.family.get("absent", {}), **given}

    def find(self, names: tuple[str, ...]) -> int | None:
        """The whole number under the first of these names that is present."""
        for name in names:
            value = self.keys.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
                self.problems.append(Problem("must be a whole number", self.file, name, shorten(value)))
                return None
            return int(value)
        return None

    def need(self, names: tuple[str, ...]) -> int:
        """As `find`, but a missing key is a problem."""
        before = len(self.problems)
        value = self.find(names)
        if value is None and len(self.problems) == before:
            message = "missing key" if self.type else "missing key (and no model_type to say what it means)"
            self.problems.append(Problem(message, self.file, names[0], allowed=" or ".join(names)))
        return value or 1

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value by name."""
        return bool(self.keys.get(name, default))

    def spec(self, name: str) -> ModelSpec:
        """The specification, or every problem found on the way to it."""
        self._refuse()
        data: dict[str, Any] = {"name": name, "layers": self.need(LAYERS), **self._widths()}
        data["max_context_tokens"] = self.need(CONTEXT)
        data.update(self._windows(data["layers"]))
        moe = self._experts(data)
        data = merged({**data, **({"moe": moe} if moe else {})}, self._traits(bool(moe)))
        data.update(self._switches(data))
        try:
            data.update(published_dtypes(self.keys, bool(moe)))
        except ValueError as error:
            self.problems.append(Problem(str(error), self.file, "quantization_config"))
        if self.problems:
            raise SpecError(self.problems)
        data["sources"] = ({"kind": "published", "source": f"configuration file {Path(self.file).name}"},)
        return build(ModelSpec, data, self.file)

    def _refuse(self) -> None:
        # a list of layer kinds refuses only where one of its layers is marked 0, as not softmax attention
        plain = {"attn_type_list"} if all(self.keys.get("attn_type_list") or ()) else set()
        if self.keys.get("index_topk_freq") == 1:  # every layer has its own
            plain.add("index_topk_freq")
        if self.keys.get("index_topk") and not self.keys.get("kv_lora_rank"):
            message = "sparse attention without latents, which a model specification cannot express"
            self.problems.append(Problem(message, self.file, "index_topk"))
        for key, reason in _families()["refused"].items():
            if self.keys.get(key) and key not in plain:
                self.problems.append(Problem(f"{reason}, which a model specification cannot express", self.file, key))
        kinds = set(self.keys.get("layer_types") or ()) - {"full_attention", "sliding_attention", "chunked_attention"}
        for kind in sorted(map(str, kinds)):
            self.problems.append(Problem("a kind of layer that cannot be expressed", self.file, "layer_types", kind))

    def _traits(self, moe: bool) -> dict[str, Any]:
        traits = dict(self.family.get("traits", {}))
        if not moe:
            traits.pop("moe", None)
        return traits

    def _widths(self) -> dict[str, Any]:
        hidden, heads = self.need(HIDDEN), self.need(HEADS)
        one_kv_head = self.flag("multi_query") and not self.flag("new_decoder_architecture")
        kv_heads = 1 if one_kv_head else self.find(KV_HEADS)
        ffn = self.find(FFN)
        if ffn is None and "expansion_ratio" in self.keys:
            ffn = self.need(("expansion_ratio",)) * hidden
        if ffn is None and self._ungated():
            ffn = 4 * hidden  # the two-matrix families leave it out when it is four times the width
        if ffn is None and self.find(("moe_intermediate_size",)) is None:
            ffn = self.need(FFN)
        head_dim = self.find(("head_dim",)) or hidden // heads
        widths: dict[str, Any] = {}
        if self.find(("kv_lora_rank",)):
            latent: dict[str, Any] = {
                "q_lora_rank": self.find(("q_lora_rank",)) or 0,
                **{
                    key: self.need((key,))
                    for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
                },
            }
            head_dim = latent["qk_nope_head_dim"] + latent["qk_rope_head_dim"]
            if self.find(("index_topk",)):
                names = (("heads", "index_n_heads"), ("head_dim", "index_head_dim"), ("topk", "index_topk"))
                latent["index"] = {field: self.need((key,)) for field, key in names}
            widths["latent"] = latent
        elif (self.find(("v_head_dim",)) or head_dim) != head_dim:
            self.problems.append(Problem("values narrower than keys cannot be expressed", self.file, "v_head_dim"))
        return {
            "hidden": hidden,
            "heads": heads,
            "kv_heads": kv_heads or heads,
            "head_dim": head_dim,
            "ffn": self.find(("intermediate_size_mlp", "dense_intermediate_size")) or ffn or 0,
            "vocab": self.need(("vocab_size",)),
            **widths,
        }

    def _ungated(self) -> bool:
        return self.family.get("traits", {}).get("gated_mlp") is False

    def _switches(self, data: dict[str, Any]) -> dict[str, Any]:
        """Biases, norms, ties and positions, from the flags that say so."""
        covers_all = self.family.get("bias") != "qkv"
        every = (
            self.flag("attention_bias") or self.flag("bias") or self.flag("use_bias") or not self.flag("no_bias", True)
        )
        found: dict[str, Any] = {"tied_embeddings": self.flag("tie_word_embeddings")}
        if every:
            found["qkv_bias"] = True
            found["attention_out_bias"] = covers_all
        if self.flag("use_qkv_bias"):
            found["qkv_bias"] = True
        if self.flag("mlp_bias") or (every and self._ungated()):
            found["mlp_bias"] = True
        if self.flag("use_qk_norm") or self.flag("qk_layernorm"):
            found["qk_norm"] = True
        if "alibi" in self.keys:
            plain = "rope" if self.flag("rope") or self.type != "mpt" else "learned"
            found["position"] = "alibi" if self.flag("alibi") else plain
        if found.get("position", data.get("position")) == "learned":
            # OPT's table has two rows before the first position
            found["learned_positions"] = data["max_context_tokens"] + (2 if self.type == "opt" else 0)
        if "use_parallel_residual" in self.keys:
            found["parallel_attention"] = self.flag("use_parallel_residual")
        width = self.find(("word_embed_proj_dim",))
        if width is not None and width != data["hidden"]:
            found["embedding_dim"] = width
        if self.type.lower().startswith(("falcon", "refinedweb")):
            two_norms = self.flag("new_decoder_architecture") or not self.flag("parallel_attn")
            found["parallel_attention"] = self.flag("new_decoder_architecture") or self.flag("parallel_attn")
            found["norms_per_layer"] = self.find(("num_ln_in_parallel_attn",)) or (2 if two_norms else 1)
        return found

    def _windows(self, layers: int) -> dict[str, int]:
        chunk = self.type == "llama4_text"
        window = self.find(("attention_chunk_size",) if chunk else ("sliding_window", "sliding_window_size"))
        pattern = self.keys.get("sliding_window_pattern") or self.family.get("pattern")
        kinds, no_rope = self.keys.get("layer_types"), self.keys.get("no_rope_layers")
        if not window or self.keys.get("use_sliding_window") is False:
            return {}
        if isinstance(kinds, list) and kinds:
            count = sum(kind != "full_attention" for kind in kinds[:layers])
        elif chunk and isinstance(no_rope, list) and no_rope:
            count = sum(bool(uses_rope) for uses_rope in no_rope[:layers])
        elif pattern == "all":
            count = layers
        elif pattern == "after":
            first = min(layers, self.find(("max_window_layers",)) or 0)
            count = layers - first if self.flag("use_sliding_window") else 0
        elif isinstance(pattern, str):  # such as LLLG: local and global layers by turns
            count = sum(pattern[i % len(pattern)] == "L" for i in range(layers))
        else:
            count = layers - layers // int(pattern) if pattern else 0
        return {"window_tokens": window, "window_layers": count} if count else {}

    def _experts(self, data: dict[str, Any]) -> dict[str, Any]:
        experts = self.find(EXPERTS)
        if not experts or experts == 1:
            return {}
        width = self.find(("moe_intermediate_size",)) or self.need(("intermediate_size",))
        shared = self.find(("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim"))
        if shared is None:
            shared = (self.find(SHARED) or 0) * width
        if self.type == "llama4_text":
            shared = width
        router_bias = (
            self.keys.get("topk_method") == "noaux_tc"
            or self.flag("use_routing_bias")
            or self.flag("use_moe_router_bias")
        )
        return {
            "experts": experts,
            "experts_per_token": self.need(PER_TOKEN),
            "expert_ffn": width,
            "shared_ffn": shared,
            "dense_layers": self._dense_layers(data["layers"]),
            **({"router_bias": True} if router_bias else {}),
        }

    def _dense_layers(self, layers: int) -> int:
        first = self.find(("first_k_dense_replace",)) or 0
        every = self.keys.get("moe_layer_freq", 1)
        listed = self.keys.get("moe_layers")
        if isinstance(every, list):
            return sum(not has_experts for has_experts in every[:layers])
        if isinstance(listed, list) and listed:
            return layers - len(set(listed))
        step = self.find(("decoder_sparse_step", "interleave_moe_layer_step")) or 1
        skipped = set(self.keys.get("mlp_only_layers") or ())
        freq = self.find(("moe_layer_freq",)) or 1
        with_experts = [i for i in range(first, layers) if i % freq == 0 and (i + 1) % step == 0 and i not in skipped]
        return layers - len(with_experts)
