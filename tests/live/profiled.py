"""A deployment on a profiled device, and an engine that serves on it step by step, both made up: what a fit should find
is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from live.engine import CONFIG
from windtunnel.cost.measured.profile import Provenance, write_profile
from windtunnel.cost.steps import price_step
from windtunnel.live.measurement import Measurement, measurement
from windtunnel.live.profile.device import DeviceRates, device_file
from windtunnel.live.profile.points import Point, points_of
from windtunnel.live.profile.run import _rows
from windtunnel.live.profile.timing import Timed
from windtunnel.live.reference import Reference, write_references
from windtunnel.operators.batch import Batch, decode_batch, prefill_batch
from windtunnel.specs.assemble import load_deployment
from windtunnel.specs.deployment import DeploymentSpec
from windtunnel.specs.load import load
from windtunnel.specs.plan import PlanSpec

RATES = DeviceRates("Some Processor", 30e9, {"fp32": 1e11, "bf16": 4e11}, 2e-6, 16 * 2**30, 2, 0.0)


def reference(product: float = 1.0, read: float = 1.0, host: float = 1.0) -> Reference:
    """A reference measured at these speeds."""
    return Reference("Python, NumPy", "2026-11-21T12:00:00Z", 1e-3 / product, 4e-3 / read, 5e-4 / host, 0.1)


def deployment(folder: Path, references: Sequence[Reference] = (), **engine: object) -> DeploymentSpec:
    """A small model on a device whose kernels, all of them, take made-up times."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model = load("models", str(folder / "config.json"))
    points = points_of(model, PlanSpec(), 512, 32, 512)
    rows = _rows(points, {point.name: Timed(_seconds(point), 0.1, 100) for point in points})
    write_profile(folder / "device", Provenance("box", "2026-11-21", "made up"), rows)
    (folder / "device" / "device.yaml").write_text(yaml.safe_dump(device_file(RATES, "box", "2026-11-21", "made up")))
    if references:
        write_references(folder / "device", list(references))
    described = {"extends": "vllm", "max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 512}
    return load_deployment(
        {
            "model": str(folder / "config.json"),
            "accelerator": str(folder / "device" / "device.yaml"),
            "engine": {**described, "block_size": 128, "enable_prefix_caching": False, **engine},
        }
    )


def _seconds(point: Point) -> float:
    """Larger than the hardware's limit, and more for more."""
    if point.key[0] == "gemm":
        _, n, k, *_ = point.key
        return 1e-5 + float(n) * float(k) * (2.0 / 20e9 + 2.0 * point.sizes[0] / 3e11)
    if point.key[0] == "attention":
        prompt, cached, requests, context = point.sizes
        return 1e-5 + 1e-7 * (prompt * (cached + prompt / 2) / 4 + requests * context)
    return 4e-6 + 1e-7 * point.sizes[0]


def served(
    truth: DeploymentSpec,
    seconds: float = 12.0,
    seed: int = 0,
    references: object = (),
    disturbed: tuple[float, float] = (0.0, 0.0),
) -> Measurement:
    """What a client sees of an engine whose steps cost what the operators of each batch cost, one by one.

    Between the two moments of `disturbed` everything takes twice as long.
    """
    random = np.random.default_rng(seed)
    due_s = np.cumsum(random.exponential(1 / 12.0, round(12.0 * seconds)))
    prompts, outputs = random.integers(16, 200, len(due_s)), random.integers(8, 40, len(due_s))
    tokens: list[list[float]] = [[] for _ in due_s]
    waiting, now_s = list(range(len(due_s))), 0.0
    running: list[int] = []
    while waiting or running:
        if not running:
            now_s = max(now_s, float(due_s[waiting[0]]) + truth.engine.frontend_s)
        left = truth.engine.max_num_batched_tokens - len(running)
        new: list[int] = []
        while waiting and due_s[waiting[0]] + truth.engine.frontend_s <= now_s and prompts[waiting[0]] <= left:
            new.append(waiting.pop(0))
            left -= int(prompts[new[-1]])
        batch = prefill_batch([(0, int(prompts[one])) for one in new]) if new else Batch()
        if running:
            mean = round(float(np.mean([prompts[one] + len(tokens[one]) for one in running])))
            batch = batch + decode_batch(len(running), mean)
        slowed = 2.0 if disturbed[0] <= now_s < disturbed[1] else 1.0
        now_s += slowed * price_step(truth, batch).total_s * float(np.exp(0.02 * random.standard_normal()))
        for one in (*running, *new):
            tokens[one].append(now_s)
        running = [one for one in (*running, *new) if len(tokens[one]) < outputs[one]]
    records = [
        {
            "row": i, "due_s": due_s[i], "sent_s": due_s[i], "first_token_s": tokens[i][0], "finish_s": tokens[i][-1],
            "prompt_tokens": int(prompts[i]), "output_tokens": int(outputs[i]), "prompt_reported": int(prompts[i]),
            "output_received": int(outputs[i]), "attempts": 1, "status": "ok",
            "token_s": [at_s + 2e-5 * random.random() for at_s in tokens[i]],
        }
        for i in range(len(due_s))
    ]  # fmt: skip
    return measurement(records, {"notes": [], "references": references})
