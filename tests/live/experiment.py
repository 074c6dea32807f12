"""Profile, load, fit and compare on this machine, with the real vLLM on its processor.

Machines that others use wander by a tenth and more from one minute to the next, and what disturbs them only ever makes
them slower. So every load is measured in several short runs with all others between them, the fitted one too: the
medians of all are then of the same machine, and what they differ by between runs is its noise.

`python -m live.experiment FOLDER` (in `tests`, with WINDTUNNEL_VLLM_PYTHON) measures into the folder and prints every
figure beside its prediction. The folder's measurements can be read again without a server: `... FOLDER --again`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from live import engine
from windtunnel.live.bench import Bench, bench
from windtunnel.live.compare import Comparison, compare_deployment
from windtunnel.live.endpoint import Endpoint
from windtunnel.live.fit import Fit, fit
from windtunnel.live.fitted import engine_yaml
from windtunnel.live.load import LoadSettings
from windtunnel.live.measurement import Measurement, load
from windtunnel.live.prompts import Vocabulary
from windtunnel.live.repeats import Repeated, repeated
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.workload.table import RequestTable, request_table

SOURCE = Path(__file__).parents[2] / "src"
LIMITS = {"max_num_seqs": 32, "max_num_batched_tokens": 512}
"""The server's own, which no setting exceeds."""
SETTINGS: dict[str, dict[str, int | bool]] = {
    "wide": {},
    "narrow": {"max_num_seqs": 8, "max_num_batched_tokens": 256},
    "one": {"max_num_seqs": 1},
    "two": {"max_num_seqs": 2},
    "four": {"max_num_seqs": 4, "enable_chunked_prefill": False},
    "long": {"max_num_seqs": 16, "long_prefill_token_threshold": 32},
    "chunks of 16": {"max_num_seqs": 16, "max_num_batched_tokens": 16},
    "chunks of 8": {"max_num_seqs": 8, "max_num_batched_tokens": 8},
}
LOADED = ("wide", "narrow")
"""Settings that are loaded at half and at nearly full capacity."""
LOADS = {"half": 0.5, "near": 0.85}
FITTED = ("wide", 0.7)
"""The setting and the share of its capacity of the load that is fitted."""
REPEATS = 6 if os.environ.get("WINDTUNNEL_QUIET") == "1" else 5
"""Of three runs two may be disturbed; the complete check leaves out the sixth, for its minutes."""
LOAD_S = 6.0
BURSTS = {
    "wide": 80, "narrow": 56, "one": 16, "two": 28, "four": 40, "long": 64, "chunks of 16": 40, "chunks of 8": 30,
}  # fmt: skip
"""Requests that saturate each setting for some three seconds: a machine's disturbances last a second or more."""
CALM = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Freed activations stay with the process instead of being mapped anew in every step, as with the allocator that vLLM
advises for processors."""


def traffic(rate_per_s: float, seconds: float, seed: int) -> RequestTable:
    """Poisson arrivals of mixed lengths."""
    return _lengths(np.random.default_rng(seed), max(round(rate_per_s * seconds), 24), rate_per_s)


def burst(setting: str, seed: int = 5) -> RequestTable:
    """Everything at once: the server is saturated."""
    return _lengths(np.random.default_rng(seed), BURSTS[setting], np.inf)


def _lengths(random: np.random.Generator, count: int, rate_per_s: float) -> RequestTable:
    arrivals = np.cumsum(random.exponential(1 / rate_per_s, count)) if np.isfinite(rate_per_s) else np.zeros(count)
    prompts = np.exp(random.uniform(np.log(32), np.log(256), count)).astype(np.int64)
    return request_table(arrivals, prompts, random.integers(12, 48, count))


def profile(folder: Path) -> None:
    """`windtunnel profile`, run by the Python that has vLLM, with as many threads as vLLM gives its kernels."""
    command = [
        engine.python(), "-m", "windtunnel", "profile", "--model", str(folder / "model" / "config.json"),
        "--out", str(folder / "device"), "--kernels", "vllm", "--threads", str(max((os.cpu_count() or 2) - 1, 1)),
        "--max-tokens", str(LIMITS["max_num_batched_tokens"]), "--max-requests", str(LIMITS["max_num_seqs"]),
        "--max-context", "512",
    ]  # fmt: skip
    environment = {**os.environ, **CALM, "PYTHONPATH": str(SOURCE)}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=400)


class Session:
    """A running server whose scheduler is set anew before each load."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.salt = url, folder, 0

    def run(self, name: str, setting: str, table: RequestTable) -> Measurement:
        """Load the server under a setting; prompts are new each time, so that no cache knows them."""
        self.salt += 1
        (self.folder / "settings.json").write_text(json.dumps(settings_of(setting)))
        chosen = LoadSettings(vocabulary=Vocabulary(10, 8000), salt=self.salt)
        return bench(Bench(table, Endpoint(self.url), chosen, self.folder / name, reference=engine.python()))


@contextmanager
def session(folder: Path, port: int) -> Iterator[Session]:
    """A server for the experiment."""
    file = folder / "settings.json"
    file.write_text(json.dumps(settings_of("wide")))
    tests = {"PYTHONPATH": str(Path(__file__).parent), "WINDTUNNEL_SCHEDULER_SETTINGS": str(file)}
    options = {**LIMITS, "max_model_len": 512, "scheduler_cls": "retuned.Retuned"}
    with engine.serving(folder / "model", port, {**CALM, **tests}, **options) as url:
        yield Session(url, folder)


def settings_of(name: str) -> dict[str, int | bool]:
    """A setting in full."""
    return {**LIMITS, "enable_chunked_prefill": True, "long_prefill_token_threshold": 0, **SETTINGS[name]}


def measure(folder: Path, port: int = 18231) -> None:
    """All that needs the machine: the profile, then in turn full settings, the load to fit, and two loads of two."""
    engine.write_model(folder / "model")
    profile(folder)
    with session(folder, port) as server:
        server.run("warm", "wide", burst("wide"))
        for repeat in range(REPEATS):
            for name in SETTINGS:
                server.run(f"burst {name} {repeat}", name, burst(name))
            name, share = FITTED
            server.run(f"fitted {repeat}", name, traffic(share * capacity(folder, name), LOAD_S, 11))
            for name in LOADED:
                for label, share in LOADS.items():
                    server.run(f"{label} {name} {repeat}", name, traffic(share * capacity(folder, name), LOAD_S, 3))


def capacity(folder: Path, setting: str) -> float:
    """Requests per second of the saturated server, in the first of its runs: every repeat is of the same load."""
    found = load(folder / f"burst {setting} 0")
    return len(found) / found.duration_s


def runs(folder: Path, load_name: str) -> list[Measurement]:
    """The repeats of a load."""
    return [load(folder / f"{load_name} {repeat}") for repeat in range(len(list(folder.glob(f"{load_name} [0-9]"))))]


def deployment(folder: Path, setting: str, base: str = "vllm") -> DeploymentSpec:
    """What serves under a setting."""
    settings = {**settings_of(setting), "max_model_len": 512, "block_size": 128}
    file = folder / f"{setting}.yaml"
    described = {
        "model": str(folder / "model" / "config.json"), "accelerator": str(folder / "device" / "device.yaml"),
        "engine": {"extends": base, **settings},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(described))
    return load_deployment(file)


def fitted(folder: Path) -> Fit:
    """The engine's overheads from the one load, kept as a file."""
    measured = runs(folder, "fitted")
    found = fit(deployment(folder, FITTED[0]), *measured, kernels=True)
    (folder / "engine.yaml").write_text(engine_yaml(found, *measured))
    return found


def comparisons(folder: Path, label: str, setting: str, base: str) -> list[Comparison]:
    """A load under a setting, every repeat of it beside its prediction."""
    chosen = deployment(folder, setting, base)
    return [compare_deployment(one, chosen) for one in runs(folder, f"{label} {setting}")]


def outcomes(folder: Path, base: str) -> list[Repeated]:
    """Every figure of the loads and of the saturated settings, named after its load."""
    wanted = {"half": ("tpot_p50_s", "ttft_p50_s"), "near": ("tpot_p50_s", "output_tokens_per_s")}
    rows = [(label, name, wanted[label]) for name in LOADED for label in LOADS]
    rows += [("burst", name, ("output_tokens_per_s",)) for name in SETTINGS]
    found = []
    for label, name, figures in rows:
        seen = {one.name: one for one in repeated(comparisons(folder, label, name, base))}
        found += [replace(seen[figure], name=f"{label} {name} {figure}") for figure in figures]
    return found


def main(folder: Path, again: bool) -> None:
    """Measure, unless it was done, and print."""
    if not again:
        folder.mkdir(parents=True)
        measure(folder)
    found = fitted(folder)
    print(found.fields, found.error_before, found.error_after)
    for base in ("vllm", str(folder / "engine.yaml")):
        print(f"engine {base}")
        for one in outcomes(folder, base):
            seen = " ".join(f"{value:.4g}" for value in one.measured)
            predicted = f"{one.predicted:.4g} ({one.low:.4g} to {one.high:.4g})"
            print(f"{one.name:38} measured {seen}, noise {one.noise:.0%}, predicted {predicted} {one.error:+.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), "--again" in sys.argv)
