"""The catalogue of models as a whole: it loads, its names are unique, measurements find their models."""

from __future__ import annotations

import csv
from collections import Counter

import pytest

from helpers import shared_file
from windtunnel.errors import SpecError
from windtunnel.specs.load import build, catalogue_folder, names, resolve
from windtunnel.specs.model import ModelSpec

ENTRIES: list[ModelSpec] = [resolve("models", name) for name in names("models")]

OUTSIDE = {
    # hybrids with state-space layers
    "NVIDIA Nemotron Nano 9B V2",
    "NVIDIA Nemotron Nano 12B V2",
    "Nemotron nano v3",
    "Nemotron nano v3 3B-active",
    "Nemotron_3_Nano",
    "Nemotron_3_Super",
    "Nemotron_3_Ultra",
    "Hybrid 2B",
    # linear and compressed attention
    "Qwen3.5-397B-A17B",
    "DeepSeekV4 Flash",
    # shapes that nobody published
    "GPT 583M",
    "GPT2-750M",
    "GPT2-1.4B",
    "GPT2-65B",
}
"""Measured models that the catalogue does not hold."""


def test_there_are_enough() -> None:
    assert len(ENTRIES) >= 55


def test_names_are_those_of_the_files() -> None:
    assert [entry.name for entry in ENTRIES] == list(names("models"))
    assert all(entry.name == entry.name.lower() and " " not in entry.name for entry in ENTRIES)


def test_names_and_aliases_are_unique() -> None:
    spelled = Counter(name.casefold() for entry in ENTRIES for name in {entry.name, *entry.aliases})
    assert [name for name, count in spelled.items() if count > 1] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_sourced(entry: ModelSpec) -> None:
    assert entry.title
    assert entry.sources
    for source in entry.sources:
        assert source.source
        assert source.date
        assert set(source.fields) <= set(ModelSpec.model_fields)
        assert source.url.startswith("https://") or source.kind == "assumed"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("meta-llama/meta-llama-3.1-70b-instruct", "llama-3.1-70b"),
        ("Llama 2 70B", "llama-2-70b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("GPT3-175B", "gpt-3-175b"),
        ("QWEN3-32B", "qwen3-32b"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert resolve("models", alias).name == name


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("llama-3.1-7b", "llama-3.1-70b"),
        ("meta-llama/Llama-3.1-8", "meta-llama/Llama-3.1-8B"),
        ("mixtrl-8x7b", "mixtral-8x7b"),
    ],
)
def test_unknown_name_gives_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(SpecError) as raised:
        resolve("models", typed, "--model")
    (problem,) = raised.value.problems
    assert problem.message == "unknown model"
    assert problem.file == "--model"
    assert problem.got == repr(typed)
    assert problem.nearest == nearest or resolve("models", problem.nearest).name == nearest


def test_variants_inherit_what_they_do_not_change() -> None:
    plain, fp8 = resolve("models", "qwen3-235b-a22b"), resolve("models", "qwen3-235b-a22b-fp8")
    assert (plain.dtype, fp8.dtype) == ("bf16", "fp8")
    assert fp8.parameters() == plain.parameters()
    assert not set(fp8.aliases) & set(plain.aliases)


def test_windows() -> None:
    assert resolve("models", "mistral-7b-v0.1").window_layers == 32
    assert resolve("models", "mistral-7b").window_layers == 0
    assert resolve("models", "gemma-2-27b").window_layers == 23
    assert resolve("models", "gemma-3-27b").window_layers == 52  # every sixth of 62 layers sees everything
    assert resolve("models", "gpt-oss-20b").window_layers == 12


@pytest.mark.parametrize("file", ["serving.csv", "training.csv"])
def test_measured_models_are_in_the_catalogue(file: str) -> None:
    with shared_file("evidence", file).open(newline="", encoding="utf-8") as text:
        measured = {row["model"] for row in csv.DictReader(text)}
    missing = []
    for name in sorted(measured - OUTSIDE):
        try:
            resolve("models", name)
        except SpecError:
            missing.append(name)
    assert missing == []


def test_training_measurements_state_the_catalogue_shapes() -> None:
    """Layers, width and heads given beside a measurement are those of the entry that its name finds."""
    wrong = set()
    with shared_file("evidence", "training.csv").open(newline="", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            if row["model"] in OUTSIDE or not row["layers"]:
                continue
            entry = resolve("models", row["model"])
            shape = (int(row["layers"]), int(row["hidden"]), int(row["heads"]))
            if row["model"] == "MPT-30b":
                continue  # the benchmark ran 56 heads; the released model has 64 of the same total width
            if shape != (entry.layers, entry.hidden, entry.heads):
                wrong.add((row["model"], shape, (entry.layers, entry.hidden, entry.heads)))
    assert wrong == set()


def test_files_are_small() -> None:
    for name in names("models"):
        text = (catalogue_folder("models") / f"{name}.yaml").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, name


def test_entries_survive_a_round_trip() -> None:
    for entry in ENTRIES:
        assert build(ModelSpec, entry.model_dump(mode="json"), entry.name) == entry


def test_qwen35_in_four_bits_keeps_all_but_its_experts_wide() -> None:
    plain, narrow = resolve("models", "qwen3.5-397b-a17b"), resolve("models", "qwen3.5-397b-a17b-nvfp4")
    assert (narrow.dtype, narrow.dense_dtype, narrow.parameters()) == ("nvfp4", "bf16", plain.parameters())
    assert 220e9 < narrow.published_weight_bytes() < 250e9
