"""LLMServingSim profiles: folders `DEVICE/MODEL/DTYPE/` with `meta.yaml` and `tpN/*.csv` (microseconds).

Each layer of one model was timed inside vLLM: `dense.csv` by tokens, `per_sequence.csv` by sampled
sequences, `attention.csv` by what a launch serves, `moe.csv` by tokens and visited experts, `skew.csv`
launches over contexts of unequal length, which tell how fast one request's attention is alone. The
layers are matched with the operators of the same model, so that the shapes are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from windtunnel.cost.measured.check import gather, read_rows, unit_problem
from windtunnel.cost.measured.kernels import ATTENTION_AXES, EXPERT_AXES, Key, MeasuredKernels, key_of
from windtunnel.cost.measured.limits import key_limits_s
from windtunnel.cost.measured.models import model_named
from windtunnel.cost.measured.table import Table, table
from windtunnel.cost.measured.tail import lane_rate
from windtunnel.errors import Problem, SpecError, TraceError
from windtunnel.operators.attention import DecodeAttention
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.expand import decode_operators, sample_operators, token_operators
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.moe import Experts
from windtunnel.operators.operator import Operator
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.load import resolve
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

MICROSECOND = 1e-6
LAYERS = {
    "qkv_proj": "qkv",
    "o_proj": "attention out",
    "gate_up_proj": "mlp gate and up",
    "down_proj": "mlp down",
    "act_fn": "mlp activation",
    "layernorm": "norm",
    "qk_norm": "qk norm",
    "rotary_emb": "rope",
    "embedding": "embedding",
    "lm_head": "lm head",
    "sampler": "sampling",
}
"""The profile's layers and the operators that they are."""
WITHOUT_OPERATOR = ("final_layernorm",)
"""Layers that are executions of an operator measured under another name."""
IN_ATTENTION = frozenset({"kv write"})
"""The attention layer writes the cache itself."""
IN_EXPERTS = frozenset({"router", "top-k"})
"""The profile's expert layer routes its tokens itself."""
SKEW_COLUMNS = (
    "n",
    "nb",
    "ratio",
    "skew",
    "pc",
    "kp",
    "kvs",
    "kv_big",
    "kv_mean",
    "t_mean_us",
    "t_max_us",
    "t_skew_us",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile's folder and what its `meta.yaml` says."""

    folder: Path
    model: ModelSpec
    accelerator: AcceleratorSpec | None
    dtype: str
    title: str
    degrees: tuple[int, ...]


def is_profile(folder: Path) -> bool:
    """Whether the folder is such a profile, at the level of the number format."""
    return (folder / "meta.yaml").is_file() and any(folder.glob("tp*/dense.csv"))


def profiled_device(folder: Path) -> str:
    """Catalogue name of the accelerator that a profile was measured on; empty when the catalogue has none."""
    accelerator = _describe(folder).accelerator
    return accelerator.name if accelerator is not None else ""


def read_profile(folder: Path, accelerator: AcceleratorSpec | None = None) -> MeasuredKernels:
    """All tables of a profile's folder, every tensor-parallel degree of it.

    Args:
        folder: the one that holds `meta.yaml`.
        accelerator: what the kernels are wanted for; another device's are refused.

    Raises:
        TraceError: every problem of the first table that has any, or the tables are of another device.
    """
    profile = _describe(folder)
    _check_device(profile, accelerator)
    limits = profile.accelerator or accelerator
    tables: dict[Key, Table] = {}
    rates: dict[Key, float] = {}
    for degree in profile.degrees:
        for key, found in _read_degree(profile, degree, limits, rates).items():
            tables.setdefault(key, found)
    included = IN_ATTENTION | (IN_EXPERTS if any(key[0] == "experts" for key in tables) else frozenset())
    device = profile.accelerator.name if profile.accelerator else ""
    return MeasuredKernels(device, profile.title, tables, included, lane_rates=rates)


def _describe(folder: Path) -> Profile:
    path = folder / "meta.yaml"
    try:
        meta: Any = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TraceError(Problem(f"cannot read the profile's description ({error})", str(path))) from None
    if not isinstance(meta, dict):
        raise TraceError(Problem("not a mapping", str(path)))
    problems = [Problem("is missing", str(path), key) for key in ("model", "hardware") if not meta.get(key)]
    if problems:
        raise TraceError(problems)
    degrees = tuple(sorted(int(one.name[2:]) for one in folder.glob("tp[0-9]*") if (one / "dense.csv").is_file()))
    if not degrees:
        raise TraceError(Problem("no tpN folder with a dense.csv", str(folder)))
    title = f"LLMServingSim profile, vLLM {meta.get('vllm_version', 'of unknown version')}, {meta.get('gpu', '')}"
    dtype = str(meta.get("variant", "bf16"))
    return Profile(folder, model_named(str(meta["model"]), folder, str(path)), _device(meta), dtype, title, degrees)


def _device(meta: dict[str, Any]) -> AcceleratorSpec | None:
    """The catalogue's accelerator of this name, None when it has none."""
    for name in (str(meta["hardware"]), str(meta.get("gpu", ""))):
        try:
            found: AcceleratorSpec = resolve("accelerators", name)
        except SpecError:
            continue
        return found
    return None


def _check_device(profile: Profile, accelerator: AcceleratorSpec | None) -> None:
    measured = profile.accelerator
    if measured is None or accelerator is None or measured.name == accelerator.name:
        return
    message = f"these kernels were measured on {measured.name}, not on {accelerator.name}"
    raise TraceError(Problem(message, str(profile.folder / "meta.yaml"), "hardware", measured.name, accelerator.name))


def _keep_lane_rate(
    path: Path, tables: dict[Key, Table], operator: Operator, device: AcceleratorSpec, rates: dict[Key, float]
) -> None:
    key = key_of(operator)
    assert key is not None
    assert isinstance(operator, DecodeAttention)
    rate = lane_rate(_read_skew(path), tables[key], operator, device.processors, device.memory_bandwidth_bytes_per_s)
    if rate:
        rates.setdefault(key, rate)


def _read_degree(
    profile: Profile, degree: int, device: AcceleratorSpec | None, rates: dict[Key, float]
) -> dict[Key, Table]:
    """The tables of one tensor-parallel degree."""
    folder = profile.folder / f"tp{degree}"
    plan = PlanSpec.model_validate({"tensor_parallel": degree, "weight_dtype": profile.dtype})
    operators = _operators(profile.model, plan)
    tables: dict[Key, Table] = {}
    files: dict[Key, Path] = {}

    def keep(operator: Operator, found: Table, path: Path) -> None:
        key = key_of(operator)
        assert key is not None
        tables[key], files[key] = found, path

    for name, axis in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        path = folder / name
        if not path.is_file() and name != "dense.csv":
            continue
        for layer, found in _by_layer(path, axis).items():
            operator = operators.get(LAYERS[layer])
            if operator is not None:
                keep(operator, found, path)
    attention = folder / "attention.csv"
    if attention.is_file() and "decode attention" in operators:
        keep(operators["decode attention"], _read_attention(attention), attention)
    moe = folder / "moe.csv"
    if moe.is_file() and "experts" in operators:
        keep(operators["experts"], _read_experts(moe), moe)
    skew = folder / "skew.csv"
    if skew.is_file() and device is not None and attention.is_file():
        _keep_lane_rate(skew, tables, operators["decode attention"], device, rates)
    if device is not None:
        _check_units(tables, files, operators.values(), device)
    return tables


def _operators(model: ModelSpec, plan: PlanSpec) -> dict[str, Operator]:
    """The model's operators by name."""
    found = [*token_operators(model, plan, 1.0), *sample_operators(model, plan, 1.0)]
    found += decode_operators(model, plan, 1.0, 1.0)
    kinds = Matmul | Elementwise | Experts | DecodeAttention
    return {operator.name: operator for operator in found if isinstance(operator, kinds)}


def _by_layer(path: Path, axis: str) -> dict[str, Table]:
    """A file of layers timed by one size."""
    rows = read_rows(path, (axis, "time_us"), text=("layer",))
    layers: dict[str, list[tuple[int, tuple[float, ...], float]]] = {}
    unknown: dict[str, int] = {}
    for line, numbers, texts in rows:
        name = texts["layer"]
        if name in LAYERS:
            layers.setdefault(name, []).append((line, (numbers[axis],), numbers["time_us"] * MICROSECOND))
        elif name not in WITHOUT_OPERATOR:
            unknown.setdefault(name, line)
    if unknown:
        known = ", ".join(sorted((*LAYERS, *WITHOUT_OPERATOR)))
        raise TraceError([Problem("unknown layer", f"{path}:{line}", "layer", n, known) for n, line in unknown.items()])
    return {name: table(("rows",), gather(str(path), found, "time_us"), path.name) for name, found in layers.items()}


def _read_attention(path: Path) -> Table:
    columns = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    return _read_grid(path, columns, ATTENTION_AXES)


def _read_experts(path: Path) -> Table:
    return _read_grid(path, ("tokens", "activated_experts"), EXPERT_AXES)


def _read_grid(path: Path, columns: Sequence[str], axes: Sequence[str]) -> Table:
    rows = [
        (line, tuple(numbers[name] for name in columns), numbers["time_us"] * MICROSECOND)
        for line, numbers, _ in read_rows(path, (*columns, "time_us"))
    ]
    return table(axes, gather(str(path), rows, "time_us"), path.name)


def _read_skew(path: Path) -> list[tuple[float, float, float, float, float]]:
    """Launches without prompts in which a quarter of the contexts or fewer are long (see `tail.lane_rate`)."""
    found = []
    for _, row, texts in read_rows(path, SKEW_COLUMNS, text=("regime", "alpha")):
        if texts["regime"] == "pure" and row["nb"] <= 0.25 * row["n"] and row["t_mean_us"] > 0:
            found.append((row["n"], row["nb"], row["kvs"], row["kv_big"], row["t_skew_us"] / row["t_mean_us"]))
    return found


def _check_units(
    tables: dict[Key, Table], files: dict[Key, Path], operators: Sequence[Operator] | Any, device: AcceleratorSpec
) -> None:
    problems = []
    for operator in operators:
        key = key_of(operator)
        if key is not None and key in tables:
            limits = key_limits_s(key, tables[key], device)
            problem = unit_problem(str(files[key]), operator.name, tables[key], limits)
            problems += [problem] if problem else []
    if problems:
        raise TraceError(problems)
