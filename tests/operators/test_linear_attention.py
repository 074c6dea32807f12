"""Layers of Qwen3.5-397B-A17B on eight ranks, kernel by kernel: widths, bytes and launches counted by hand."""

from __future__ import annotations

import pytest

from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.operators.elementwise import Elementwise
from windtunnel.operators.expand import expand
from windtunnel.operators.linear_attention import PREFILL_KERNELS
from windtunnel.operators.matmul import Matmul
from windtunnel.operators.operator import Operator
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

MODEL = resolve("models", "qwen3.5-397b-a17b")
EIGHT = PlanSpec(tensor_parallel=8, weight_dtype="fp8", kv_dtype="fp8")
REQUESTS = 3
LINEAR, FULL, LAYERS = 45, 15, 60
# A rank of eight holds 2 of 16 key heads and 8 of 64 value heads, all of 128 values.
CHANNELS, OUT, GATES = 2 * 2 * 128 + 8 * 128, 8 * 128, 2 * 8


def step(decode: bool = True) -> dict[str, Operator]:
    batch = decode_batch(REQUESTS, 1000) if decode else prefill_batch([(0, 256)])
    return {one.name: one for one in expand(MODEL, EIGHT, batch)}


def launches(operators: dict[str, Operator], count: int) -> dict[str, int]:
    """Kernels per layer of the products and elementwise operators that run so many times in a step."""
    found = {}
    for name, one in operators.items():
        if one.count == count and isinstance(one, Matmul | Elementwise):
            found[name] = one.kernels if isinstance(one, Elementwise) else 1
    return found


def test_kernels_of_a_linear_layer_in_a_decode_step() -> None:
    assert launches(step(), LINEAR) == {
        "linear attention in": 1,
        "linear attention gates": 1,
        "split of projections": 1,
        "convolution": 1,
        "linear attention": 1,
        "gated norm": 1,
        "linear attention out": 1,
    }


def test_kernels_of_a_full_attention_layer_and_of_the_shared_expert() -> None:
    found = step()
    assert launches(found, FULL) == {
        "qkv": 1,
        "attention gate": 2,
        "qk norm": 2,
        "rope": 1,
        "kv write": 1,
        "quantise": 1,
        "attention out": 1,
    }
    shared = {name: kernels for name, kernels in launches(found, LAYERS).items() if "shared" in name}
    assert shared == {
        "shared expert gate and up": 1,
        "shared expert activation": 1,
        "shared expert down": 1,
        "add shared": 1,
        "shared gate": 1,
        "apply shared gate": 2,
    }


def test_gates_keep_their_format_and_widths_add_up() -> None:
    found = step()
    products = {name: one for name, one in found.items() if isinstance(one, Matmul)}
    into, gates = products["linear attention in"], products["linear attention gates"]
    assert (into.n, into.k, into.weight_dtype, into.apart) == (CHANNELS + OUT, 4096, "fp8", (CHANNELS, OUT))
    assert (gates.n, gates.k, gates.weight_dtype) == (GATES, 4096, "bf16")
    assert (products["linear attention out"].n, products["linear attention out"].k) == (4096, OUT)
    assert MODEL.linear is not None
    assert 8 * (into.n + gates.n) == MODEL.linear.in_width


def test_bytes_of_a_decode_step() -> None:
    """Four tokens of the convolution's window in 16 bits, a state of 128 x 128 per value head in 32, both ways."""
    found = step()
    window, state = 4 * CHANNELS * 2, 8 * 128 * 128 * 4
    assert found["convolution"].read_bytes == found["convolution"].write_bytes == REQUESTS * window
    delta = found["linear attention"]
    assert delta.read_bytes == REQUESTS * (state + 2 * (CHANNELS + GATES))
    assert delta.write_bytes == REQUESTS * (state + 2 * OUT)
    split = found["split of projections"]
    assert split.read_bytes == split.write_bytes == REQUESTS * 2 * (CHANNELS + OUT + GATES)
    gate = found["attention gate"]
    assert (gate.read_bytes, gate.write_bytes) == (REQUESTS * 2 * 3 * 4 * 256, REQUESTS * 2 * 2 * 4 * 256)
    shared = found["apply shared gate"]
    assert (shared.read_bytes, shared.write_bytes) == (REQUESTS * 2 * 4098, REQUESTS * 2 * 4097)


def test_a_prompt_has_its_convolution_in_the_chunkwise_form() -> None:
    found = step(decode=False)
    assert "convolution" not in found
    prefill = {name: kernels for name, kernels in launches(found, LINEAR).items() if found[name].part == "prefill"}
    assert prefill == {"decays and rates": 1, "linear attention": PREFILL_KERNELS}
    assert found["decays and rates"].write_bytes == 256 * GATES * 4


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_ranks_share_the_states(tp: int) -> None:
    plan = PlanSpec(tensor_parallel=tp)
    found = {one.name: one for one in expand(MODEL, plan, decode_batch(1, 1))}
    assert found["linear attention"].read_bytes * tp == pytest.approx(64 * 128 * 128 * 4 + 2 * (12288 + 128))
