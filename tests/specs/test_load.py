"""Finding and loading specs: names, aliases, files, `extends`, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.errors import SpecError
from windtunnel.specs.load import Collector, load, merged, read_yaml, resolve


def _write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_name_and_alias_lead_to_the_same_entry() -> None:
    assert resolve("accelerators", "A100-SXM4-80GB") is resolve("accelerators", "a100-80g-sxm")
    assert load("models", "meta-llama/Llama-3.1-8B-Instruct").name == "llama-3.1-8b"


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"--accelerator: unknown accelerator, got 'h100-smx'.*did you mean 'h100-sxm'"):
        load("accelerators", "h100-smx", "--accelerator")


def test_file_extends_a_catalogue_entry(tmp_path: Path) -> None:
    path = _write(tmp_path, "own.yaml", "extends: h100-sxm\nname: own\nmax_w: 500 W\npeak_flops_per_s: {fp8: 2e15}\n")
    own, base = load("accelerators", path), resolve("accelerators", "h100-sxm")
    assert own.max_w == 500.0
    assert own.peak_flops_per_s == {**base.peak_flops_per_s, "fp8": 2e15}
    assert own.aliases == ()
    assert own.memory_bytes == base.memory_bytes


def test_file_extends_a_file(tmp_path: Path) -> None:
    first = _write(tmp_path, "first.yaml", "extends: vllm\nname: first\nmax_num_seqs: 64\n")
    for parent in (first, "first.yaml"):  # relative to the file that says so
        second = _write(tmp_path, "second.yaml", f"extends: {parent}\nname: second\nblock_size: 32\n")
        engine = load("engines", second)
        assert (engine.name, engine.max_num_seqs, engine.block_size) == ("second", 64, 32)


def test_extends_in_a_circle(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")
    _write(tmp_path, "first.yaml", f"extends: {second}\n")
    _write(tmp_path, "second.yaml", f"extends: {first}\n")
    with pytest.raises(SpecError, match="goes round in a circle"):
        load("engines", first)


def test_extends_an_unknown_name(tmp_path: Path) -> None:
    path = _write(tmp_path, "own.yaml", "extends: vlm\n")
    with pytest.raises(SpecError, match=r"own\.yaml: extends: unknown engine, got 'vlm'.*did you mean 'vllm'"):
        load("engines", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [1, 2", r"not valid YAML .*"),
        ("a: b: c", r"line 1: not valid YAML"),
        ("- a\n- b\n", r"must hold a mapping of fields, got list"),
        ("", r"must hold a mapping of fields, got NoneType"),
        ("just text", r"must hold a mapping of fields, got str"),
    ],
)
def test_what_is_not_a_mapping_in_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load("engines", _write(tmp_path, "own.yaml", text))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.yaml: cannot read the file \(No such file"):
        load("engines", str(tmp_path / "absent.yaml"))
    with pytest.raises(SpecError, match="cannot read the file"):
        read_yaml(tmp_path)


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_yaml(path)


def test_every_mistake_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "own.yaml",
        "extends: vllm\nmax_num_seq: 3\nmemory_utilization: 1.5\npolicy: fifo\nstep_host_s: soon\n",
    )
    with pytest.raises(SpecError) as caught:
        load("engines", path)
    found = {problem.path: problem for problem in caught.value.problems}
    assert set(found) == {"max_num_seq", "memory_utilization", "policy", "step_host_s"}
    assert found["max_num_seq"].message == "unknown field"
    assert found["max_num_seq"].nearest == "max_num_seqs"
    assert found["memory_utilization"].got == "1.5"
    assert "fcfs" in found["policy"].allowed
    assert all(problem.file == path for problem in caught.value.problems)


def test_merged_goes_key_by_key() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}


def test_collector_gathers_and_raises_once() -> None:
    collect = Collector()
    for name in ("l4", "no-such-thing", "nor-this"):
        with collect:
            resolve("accelerators", name)
    assert len(collect.problems) == 2
    with pytest.raises(SpecError) as caught:
        collect.check()
    assert len(caught.value.problems) == 2
