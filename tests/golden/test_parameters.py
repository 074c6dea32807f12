"""Parameter counts, KV cache and weight sizes against what the models' authors publish."""

from __future__ import annotations

import pytest

from windtunnel.specs.load import names, resolve
from windtunnel.specs.model import ModelSpec

# Counts of the published weights (safetensors metadata of the model cards unless noted). DeepSeek-V2's
# two, GPT-NeoX's and GPT-2 XL's come from their reports and cards.
EXACT = {
    "llama-7b": 6_738_415_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-nemo-12b": 12_247_782_400,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "gemma-7b": 8_537_680_896,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "phi-3-mini": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "yi-34b": 34_388_917_248,
    "gpt2-xl": 1_557_611_200,
    "gpt-neox-20b": 20_554_567_680,
}

# Counts that the authors give rounded, or with parts that are left out here.
CLOSE = {
    "deepseek-v3": 671e9,  # report, arXiv:2412.19437: 671B, main model
    "gpt-oss-120b": 116.83e9,  # report, arXiv:2508.10925, table 1
    "gpt-oss-20b": 20.91e9,
    "opt-175b": 175e9,
    "bloom-176b": 176_247_271_424,  # card; its norm over the embedding (2 * 14336) is not counted here
    "megatron-530b": 530e9,
    "palm-540b": 540.35e9,
    "gpt-j-6b": 6_053_381_344,
    "megatron-gpt-1t": 1008e9,
    "llama-4-maverick": 400e9,
    "mpt-7b": 6.65e9,
}


def model(name: str) -> ModelSpec:
    found = resolve("models", name)
    assert isinstance(found, ModelSpec)
    return found


@pytest.mark.parametrize("name", EXACT)
def test_count_is_the_published_one(name: str) -> None:
    assert model(name).parameters() == EXACT[name]


@pytest.mark.parametrize("name", CLOSE)
def test_count_is_near_the_rounded_one(name: str) -> None:
    assert model(name).parameters() == pytest.approx(CLOSE[name], rel=0.005)


@pytest.mark.parametrize("name", names("models"))
def test_every_entry_agrees_with_what_it_says_is_published(name: str) -> None:
    entry = model(name)
    if not entry.published_parameters:
        assert entry.sources
        return
    # names are rounded, at worst "2T" for 2.063T; Kimi K2.5's card says "1T" for 1.026T
    assert entry.parameters() == pytest.approx(entry.published_parameters, rel=0.035)


@pytest.mark.parametrize(
    ("name", "active", "tolerance"),
    [
        ("mixtral-8x7b", 12.9e9, 0.005),  # arXiv:2401.04088, section 1
        ("mixtral-8x22b", 39.1e9, 0.005),
        ("deepseek-v2", 21e9, 0.02),  # "21B activated"
        ("deepseek-v3", 37e9, 0.02),  # "37B activated"
        ("kimi-k2", 32.6e9, 0.01),  # arXiv:2507.20534, table 2
        ("qwen3-30b-a3b", 3.3e9, 0.02),
        ("qwen3-235b-a22b", 22e9, 0.02),
        ("qwen3-coder-480b-a35b", 35e9, 0.02),
        ("llama-4-scout", 17e9, 0.02),
        ("llama-4-maverick", 17e9, 0.02),
        ("qwen2-57b-a14b", 14e9, 0.02),
    ],
)
def test_active_parameters(name: str, active: float, tolerance: float) -> None:
    assert model(name).active_parameters() == pytest.approx(active, rel=tolerance)


@pytest.mark.parametrize(("name", "active"), [("gpt-oss-120b", 5.13e9), ("gpt-oss-20b", 3.61e9)])
def test_active_parameters_of_gpt_oss(name: str, active: float) -> None:
    """The report counts the output head as active and the embedding, a lookup, not."""
    entry = model(name)
    assert entry.active_parameters() - entry.vocab * entry.hidden == pytest.approx(active, rel=0.002)


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("llama-2-7b", 524_288),  # 32 layers * 2 * 32 heads * 128 * 2 bytes
        ("llama-2-70b", 327_680),  # 80 * 2 * 8 * 128 * 2
        ("llama-3.1-8b", 131_072),  # 32 * 2 * 8 * 128 * 2
        ("llama-3.1-70b", 327_680),  # 80 * 2 * 8 * 128 * 2
        ("llama-3.1-405b", 516_096),  # 126 * 2 * 8 * 128 * 2
        ("mistral-7b", 131_072),  # 32 * 2 * 8 * 128 * 2
        ("qwen3-32b", 262_144),  # 64 * 2 * 8 * 128 * 2
        ("qwen2.5-7b", 57_344),  # 28 * 2 * 4 * 128 * 2
        ("gpt-oss-120b", 73_728),  # 36 * 2 * 8 * 64 * 2
        ("falcon-7b", 8_192),  # 32 * 2 * 1 * 64 * 2
        ("gpt-3-175b", 4_718_592),  # 96 * 2 * 96 * 128 * 2
        ("deepseek-v3", 70_272),  # 61 layers * (512 latent + 64 rotary) * 2 bytes
        ("deepseek-v2", 69_120),  # 60 * 576 * 2
    ],
)
def test_kv_bytes_per_token_in_16_bits(name: str, kv_bytes: int) -> None:
    assert model(name).kv_bytes_per_token(2.0) == kv_bytes


@pytest.mark.parametrize(("name", "gib"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_checkpoint_of_gpt_oss(name: str, gib: float) -> None:
    """Experts in mxfp4, the rest in bf16: the report's checkpoint sizes (arXiv:2508.10925, table 1)."""
    assert model(name).published_weight_bytes() / 2**30 == pytest.approx(gib, rel=0.005)


def test_weight_bytes_of_one_format() -> None:
    assert model("llama-3.1-8b").published_weight_bytes() == 2 * 8_030_261_248
