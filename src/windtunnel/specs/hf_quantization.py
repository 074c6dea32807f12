"""Number formats of published weights, from a Hugging Face configuration's quantisation entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TORCH_DTYPES = {
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
}

ALGORITHMS = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "fp8_pb_wo": "fp8",
    "fp8_per_channel_per_token": "fp8",
    "nvfp4": "nvfp4",
    "nvfp4_awq": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp8": "fp8",
    "w4a16": "int4",
    "w4a16_awq": "int4",
    "w4a8_awq": "int4",
    "int8_sq": "int8",
    "w8a8_sq_per_channel": "int8",
    "w8a16": "int8",
}
"""ModelOpt and vendor names of a weight format."""


def published_dtypes(keys: Mapping[str, Any], has_experts: bool) -> dict[str, str]:
    """`dtype`, and `dense_dtype` where attention keeps another format than the experts.

    Raises:
        ValueError: a format that is not known.
    """
    named = str(keys.get("torch_dtype") or keys.get("dtype") or "bfloat16").removeprefix("torch.")
    if named not in TORCH_DTYPES:
        raise ValueError(f"unknown torch_dtype {named!r}")
    base = TORCH_DTYPES[named]
    quantization = keys.get("quantization_config")
    if not isinstance(quantization, Mapping) or not quantization:
        return {"dtype": base}
    dtype = _weight_format(quantization, base)
    skipped = [str(entry) for key in _SKIPPED for entry in quantization.get(key) or ()]
    if has_experts and dtype != base and any("attn" in entry for entry in skipped):
        return {"dtype": dtype, "dense_dtype": base}
    return {"dtype": dtype}


_SKIPPED = ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers")


def _weight_format(quantization: Mapping[str, Any], base: str) -> str:
    method = str(quantization.get("quant_method") or "").lower()
    algorithm = str(quantization.get("quant_algo") or "").lower()
    if algorithm == "mixed_precision":
        algorithm = str(quantization.get("moe_quant_algo") or algorithm).lower()
    for name in (algorithm, method):
        if name in ALGORITHMS:
            return ALGORITHMS[name]
    if method in ("awq", "gptq", "auto-round", "hqq"):
        return _integer(quantization.get("bits") or quantization.get("w_bit") or 4)
    if method == "bitsandbytes":
        return "int4" if quantization.get("load_in_4bit") else "int8"
    groups = quantization.get("config_groups")
    weights = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
    for weight in weights:
        if isinstance(weight, Mapping):
            return _group_format(weight)
    if not (method or algorithm):
        return base
    raise ValueError(f"unknown quantisation {algorithm or method!r}")


def _group_format(weight: Mapping[str, Any]) -> str:
    bits, kind, group = weight.get("num_bits"), weight.get("type", "int"), weight.get("group_size")
    if kind == "float" and bits == 8:
        return "fp8"
    if kind == "float" and bits == 4:
        return "mxfp4" if group == 32 else "nvfp4"
    return _integer(bits)


def _integer(bits: object) -> str:
    if bits not in (4, 8):
        raise ValueError(f"unknown weight width of {bits} bits")
    return f"int{bits}"
