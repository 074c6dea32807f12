"""The fit of the energy constants gives back what made the powers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from windtunnel.evidence.fit_energy import Power, errors, fitted, held_out, predicted_w, write
from windtunnel.evidence.scenario import Claim, Scenario
from windtunnel.specs.plan import PlanSpec

SCENARIO = Scenario("llama-3.1-8b", "h100-sxm", "vllm-large", PlanSpec(), "steady", 100, 100, 8)
TRUE = (2.0, 0.2, 1.2e-10, 1.6e-10)


def powers(count: int, noise: float = 0.0) -> list[Power]:
    rng = np.random.default_rng(3)
    found = []
    for i in range(count):
        tags = {"model": f"m{i % 8}", "gpu": "h100-sxm", "metric": "avg_power_total"}
        claim = Claim(f"S{i}", i + 2, 1.0, "mean_w", 1.0, SCENARIO, tags=tags)
        architecture = "ampere" if i % 4 == 0 else "hopper"
        one = Power(
            claim,
            architecture,
            1.0,
            70.0,
            630.0,
            rng.uniform(0, 0.2),
            rng.uniform(0.2, 2.5) * 1e12,
            rng.uniform(0.7, 1.0),
        )
        true = float(predicted_w([one], TRUE)[0])
        found.append(replace(one, measured_w=true * float(np.exp(noise * rng.normal()))))
    return found


def test_the_constants_are_found_again() -> None:
    exact = powers(40)
    assert fitted(exact) == pytest.approx(TRUE, rel=0.01)
    assert np.abs(errors(exact, TRUE)).max() < 1e-9


def test_groups_left_out_are_predicted() -> None:
    assert np.median(np.abs(held_out(powers(80, noise=0.05)))) < 0.08


def test_more_of_anything_draws_more_up_to_the_limit() -> None:
    one = powers(2)[1]
    base = predicted_w([one], TRUE)[0]
    for name, more in (("compute", 0.1), ("bytes_per_s", 3e11), ("busy", 0.1)):
        assert predicted_w([replace(one, **{name: getattr(one, name) + more})], TRUE)[0] > base
    assert predicted_w([replace(one, compute=1.0)], TRUE)[0] == 700.0


def test_constants_are_written_with_their_source(tmp_path: Path) -> None:
    path = tmp_path / "energy.yaml"
    path.write_text(
        "compute_share: 1\nbyte_j: 1\nactive_share: 1\napart:\n  ampere: {compute_share: 1.0, byte_j: 1}\nsources:\n"
        "  - fields: [byte_j]\n    kind: calibrated\n    source: >-\n      before\n    date: x\n",
        encoding="utf-8",
    )
    write(TRUE, "after", path)
    text = path.read_text(encoding="utf-8")
    assert "\nbyte_j: 1.2e-10\n" in text
    assert "  ampere: {compute_share: 1.0, byte_j: 1.6e-10}\n" in text
    assert "      after\n" in text
    assert "before" not in text
