from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.cli.given import Given
from windtunnel.errors import SpecError


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("max-gpus: 4\naccelerator: [a, b]\nrate: 2\n")
    given = Given({"max_gpus": 8, "accelerator": None, "rate": None}, str(file))
    assert given.whole("max_gpus", 16) == 8
    assert given.words("accelerator") == ("a", "b")
    assert given.positive("rate") == 2.0
    assert given.where("max_gpus") == "--max-gpus"
    assert given.where("rate") == f"{file}: rate"
    given.check()


def test_every_mistake_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("max_gpu: 4\n")
    given = Given({"max_gpus": -3, "rate": float("nan"), "limit": 2.5, "router": "rnd"}, str(file))
    assert given.whole("max_gpus", 16) == 16
    assert given.positive("rate") is None
    assert given.whole("limit", 7) == 7
    assert given.choice("router", "random", ("random", "jsq")) == "random"
    with pytest.raises(SpecError) as error:
        given.check()
    text = str(error.value)
    assert len(error.value.problems) == 5
    for part in ("did you mean 'max_gpus'?", "--max-gpus", "--rate", "--limit", "did you mean 'random'?"):
        assert part in text


def test_a_missing_settings_file_is_one_problem() -> None:
    given = Given({"rate": None}, "no-such-settings.yaml")
    assert len(given.problems) == 1
