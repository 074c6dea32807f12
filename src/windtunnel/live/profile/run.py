"""Profile the device for a model: every kernel over its sizes, kept as it goes, so that a run can be resumed."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from windtunnel.cost.measured.profile import CLASSES, Provenance, write_profile
from windtunnel.files import write_atomic
from windtunnel.live.profile.device import device_file, measure_device
from windtunnel.live.profile.points import Point, points_of
from windtunnel.live.profile.timing import Timed
from windtunnel.live.profile.torch_kernels import COPIED_BYTES, TorchKernels
from windtunnel.live.profile.turns import Turns, groups_of
from windtunnel.live.profile.vllm_kernels import VllmKernels
from windtunnel.live.reference import Reference, measure_reference, read_references, write_references
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.plan import PlanSpec

PASSES = 3
"""On a processor all points are measured so often, one pass after the other, and the calmest timing of each counts:
what disturbs the machine lasts for seconds, and all kernels of a size, which are timed in one go, would share it."""
JOURNAL = "points.jsonl"
DEVICE = "device.yaml"
Progress = Callable[[int, int, str], None]


def profile(
    model: ModelSpec,
    plan: PlanSpec,
    folder: Path,
    *,
    name: str = "my-device",
    device: str = "cpu",
    kernels: str = "torch",
    threads: int = 0,
    max_tokens: int = 2048,
    max_requests: int = 64,
    max_context: int = 4096,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model's kernels on this device and write a profile.

    Args:
        model, plan: whose kernels; the plan's tensor parallel degree decides the shapes of a rank.
        folder: where the profile goes; points that it holds already are not measured again.
        name: what the device is to be called.
        device: `cpu` or `cuda`.
        kernels: whose kernels are measured: `torch`, or `vllm` for those that vLLM runs on a CPU.
        threads: of a kernel on a CPU; 0 for PyTorch's default, one per core. An engine may keep cores for itself:
            vLLM leaves one to its server.
        max_tokens, max_requests, max_context: the largest step to cover.
        progress: called with (points done, all, what).

    Returns:
        what was measured: rates of the device, points, the widest spread.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    copied = min(COPIED_BYTES, round(model.published_weight_bytes() / plan.tensor_parallel))
    own = TorchKernels(device, copied) if kernels == "torch" else VllmKernels(device, model, plan, copied)
    if threads:
        own.torch.set_num_threads(threads)
    how = own.software + (f", {own.torch.get_num_threads()} threads, in turn" if device == "cpu" else "")
    folder.mkdir(parents=True, exist_ok=True)
    points = [p for p in points_of(model, plan, max_tokens, max_requests, max_context) if own.measurable(p)]
    known = _read_journal(folder / JOURNAL, how)
    speeds = [*(read_references(folder) if known else ()), *_speed(device)]
    passes = PASSES if device == "cpu" else 1
    with (folder / JOURNAL).open("a", encoding="utf-8") as journal, own.torch.inference_mode():
        turns = Turns(own, device == "cpu")
        for count in range(1, passes + 1):
            for wanted, layer in groups_of(points, turns.in_turn):
                if all(len(known.get(point.name, ())) >= count for point in wanted):
                    continue
                if progress is not None:
                    done = sum(min(len(known.get(point.name, ())), passes) for point in points)
                    progress(done, passes * len(points), wanted[0].name)
                for point, found in zip(wanted, turns.measured(wanted, layer), strict=True):
                    known.setdefault(point.name, []).append(found)
                    _note(journal, how, point, found)
        rates = measure_device(own)
    write_references(folder, [*speeds, *_speed(device)])
    today = datetime.date.today().isoformat()
    notes = (f"kernels of {model.name}, tensor parallel {plan.tensor_parallel}",)
    best_of = {point.name: functools.reduce(Timed.beside, known[point.name]) for point in points}
    rows = _rows(points, best_of)
    # On a disturbed machine one large product may come out slower than the kernels themselves were.
    best = {dtype: max(rate, _best_rate(rows, dtype)) for dtype, rate in rates.flops_per_s.items()}
    rates = replace(rates, flops_per_s=best)
    write_profile(folder, Provenance(name, today, how, (), notes), rows)
    described = yaml.safe_dump(device_file(rates, name, today, how), sort_keys=False)
    write_atomic(folder / DEVICE, described)
    spreads = sorted(one.spread for one in best_of.values())
    return {
        "device": rates.title,
        "measured_with": how,
        "points": len(points),
        "bandwidth_bytes_per_s": rates.bandwidth_bytes_per_s,
        "flops_per_s": rates.flops_per_s,
        "launch_s": rates.launch_s,
        "power_w": rates.power_w,
        "spread_p50": spreads[len(spreads) // 2],
        "spread_max": spreads[-1],
        "file": str(folder / DEVICE),
    }


def _speed(device: str) -> list[Reference]:
    """How fast this machine is now; of an accelerator, whose kernels the reference does not run, nothing is known."""
    found = measure_reference() if device == "cpu" else None
    return [found] if found is not None else []


def _best_rate(rows: dict[str, list[dict[str, Any]]], dtype: str) -> float:
    """The highest rate among the measured products of a format, FLOP/s."""
    products = (row for row in rows.get("gemm", ()) if row["compute_dtype"] == dtype)
    return max((2.0 * row["n"] * row["k"] * row["rows"] / row["seconds"] for row in products), default=0.0)


def _rows(points: list[Point], known: dict[str, Timed]) -> dict[str, list[dict[str, Any]]]:
    """The points as rows of the profile's tables."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        kind = str(point.key[0])
        shape, sizes = CLASSES[kind]
        found = known[point.name]
        row: dict[str, Any] = {"seconds": found.seconds, "spread": found.spread, "samples": found.samples}
        row.update(zip((*shape, *sizes), (*point.key[1:], *point.sizes), strict=True))
        rows.setdefault(kind, []).append(row)
    return rows


def _note(journal: Any, how: str, point: Point, found: Timed) -> None:
    line = {
        "with": how,
        "point": point.name,
        "seconds": found.seconds,
        "spread": found.spread,
        "samples": found.samples,
    }
    journal.write(json.dumps(line) + "\n")
    journal.flush()


def _read_journal(path: Path, how: str) -> dict[str, list[Timed]]:
    """Timings of an earlier run in the same way, by point; a line cut off by its end is measured again."""
    known: dict[str, list[Timed]] = {}
    if not path.is_file():
        return known
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            if row["with"] == how:
                known.setdefault(row["point"], []).append(Timed(row["seconds"], row["spread"], row["samples"]))
        except (ValueError, KeyError):
            continue
    return known
