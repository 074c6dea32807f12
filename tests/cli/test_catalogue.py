from __future__ import annotations

import json

from typer.testing import CliRunner

from windtunnel.cli.main import app

run = CliRunner()


def test_kinds_are_counted() -> None:
    done = run.invoke(app, ["catalogue", "--json", "-"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["models"] >= 40


def test_models_are_listed_with_key_figures() -> None:
    done = run.invoke(app, ["catalogue", "models"])
    assert done.exit_code == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("llama-3.1-8b "))
    assert "8.03" in line
    assert "128" in line


def test_every_list_fits_eighty_columns() -> None:
    for kind in json.loads(run.invoke(app, ["catalogue", "--json", "-"]).stdout):
        done = run.invoke(app, ["catalogue", kind])
        assert done.exit_code == 0, kind
        assert max(map(len, done.stdout.splitlines())) <= 80, kind


def test_an_entry_shows_its_sources() -> None:
    done = run.invoke(app, ["catalogue", "model", "meta-llama/Llama-3.1-8B"])
    assert done.exit_code == 0
    assert "parameters" in done.stdout
    assert "Sources" in done.stdout


def test_json_of_an_entry_goes_to_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = run.invoke(app, ["catalogue", "models", "llama-3.1-8b", "--json", str(tmp_path / "model.json")])
    assert done.exit_code == 0
    assert json.loads((tmp_path / "model.json").read_text())["kv_bytes_per_token_16_bit"] == 131072


def test_unknown_kind_and_name_say_the_nearest() -> None:
    done = run.invoke(app, ["catalogue", "modles"])
    assert done.exit_code == 2
    assert "did you mean 'models'?" in done.stderr
    done = run.invoke(app, ["catalogue", "models", "lama-3.1-8b"])
    assert done.exit_code == 2
    assert "did you mean 'llama-3.1-8b'?" in done.stderr


def test_schema_of_a_kind() -> None:
    done = run.invoke(app, ["catalogue", "schema", "models"])
    assert done.exit_code == 0
    assert "layers" in json.loads(done.stdout)["properties"]
    assert run.invoke(app, ["catalogue", "schema", "models!"]).exit_code == 2


def test_policies_are_listed_with_their_sources() -> None:
    done = run.invoke(app, ["catalogue", "policies"])
    assert done.exit_code == 0
    for name in ("orca", "sarathi", "tensorrt-llm-no-evict", "power_of_two", "belady"):
        assert name in done.stdout
    assert "OSDI 2022" in run.invoke(app, ["catalogue", "policy", "orca"]).stdout
    assert run.invoke(app, ["catalogue", "policies", "orac"]).exit_code == 2
