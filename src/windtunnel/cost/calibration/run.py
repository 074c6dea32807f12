"""Fit every operator class of a device and write its calibration entry.

`python -m windtunnel.cost.calibration.run [--tables DIR] [ACCELERATOR ...]` rewrites
`catalogue/calibration/ACCELERATOR.yaml` from the measured tables and prints the held-out errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from windtunnel.cost.calibration import fit
from windtunnel.cost.calibration.fit import Fit
from windtunnel.cost.calibration.tables import SYSTEMS, Table, read_tables, tables_folder
from windtunnel.cost.device import Device, calibration
from windtunnel.specs.assemble import default_node, scale_up_fabric
from windtunnel.specs.fields import Spec
from windtunnel.specs.hardware import AcceleratorSpec
from windtunnel.specs.load import resolve

# TensorRT-LLM's bf16 tables are the least noisy; attention and collectives are taken from vLLM's kernels, which
# the default engine runs.
GEMM_BACKENDS = {
    "bf16": ("trtllm", "sglang", "vllm"),
    # TensorRT-LLM's fp8 entries hold the quantisation of the activations as well, which is priced apart here.
    "fp8": ("sglang", "vllm"),
    "nvfp4": ("vllm", "sglang", "trtllm"),
}
ATTENTION_BACKENDS = ("vllm", "sglang", "trtllm")
GEMM_DTYPES = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8",), "nvfp4": ("nvfp4",)}
MIN_WIDTH = 256
"""Products narrower than this do not occur in the models of the catalogue and are left out."""


@dataclass
class Calibration:
    """What has been fitted so far for one device."""

    entry: dict[str, Any] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, found: Fit, table: Table, values: Mapping[str, Any]) -> None:
        """Keep a fit and its constants under a dotted name such as `gemm.bf16`."""
        top, _, below = name.partition(".")
        if below:
            self.entry.setdefault(top, {})[below] = dict(values)
        else:
            self.entry[top] = dict(values)
        self.fits[name], self.origins[name] = found, table.origin


def calibrate(accelerator: AcceleratorSpec, folder: Path) -> Calibration:
    """Fit every operator class for which the device has measurements."""
    system = SYSTEMS[accelerator.name]
    device = Device(accelerator, calibration("generic"), "datasheet")
    result = Calibration()
    for dtype, labels in GEMM_DTYPES.items():
        table = _wide(
            read_tables(folder, system, "gemm", "gemm_perf.parquet", GEMM_BACKENDS[dtype], {"gemm_dtype": labels})
        )
        if table is not None and dtype in accelerator.peak_flops_per_s:
            found = fit.fit_gemm(table.columns, device, dtype)
            result.take(f"gemm.{dtype}", found, table, _values(fit.gemm_constants(found.values)))  # type: ignore[arg-type]
    plain = {"window_size": (0,), "kv_cache_dtype": ("bfloat16", "float16"), "attn_dtype": ("bfloat16", "float16")}
    common = {**plain, "head_dim": (64, 128, 256)}
    table = read_tables(folder, system, "attention", "generation_attention_perf.parquet", ATTENTION_BACKENDS, common)
    if table is not None:
        found = fit.fit_decode(table.columns, device)
        result.take("decode", found, table, _values(fit.decode_constants(found.values)))  # type: ignore[arg-type]
    table = read_tables(folder, system, "attention", "context_attention_perf.parquet", ATTENTION_BACKENDS, common)
    if table is not None:
        found = fit.fit_prefill(table.columns, device)
        result.take("prefill", found, table, _values(fit.prefill_constants(found.values)))  # type: ignore[arg-type]
    where = {"moe_dtype": ("bfloat16", "float16"), "distribution": ("power_law_1.01",)}
    table = read_tables(folder, system, "moe", "moe_perf.parquet", ATTENTION_BACKENDS, where)
    if table is not None:
        found = fit.fit_moe(table.columns, device, "bf16")
        result.take("moe", found, table, _values(fit.moe_constants(found.values)))  # type: ignore[arg-type]
    _fit_collective(accelerator, device, folder, system, result)
    return result


def _fit_collective(
    accelerator: AcceleratorSpec, device: Device, folder: Path, system: str, result: Calibration
) -> None:
    node = default_node(accelerator.name)
    if node is None:
        return
    over_host = node.topology == "host"
    where = {"kernel_source": ("vLLM_custom_graph", "SGLang_CustomAllReduce_graph", "TRTLLM")}
    table = read_tables(folder, system, "comm", "custom_allreduce_perf.parquet", ATTENTION_BACKENDS, where)
    if table is not None:
        found = fit.fit_all_reduce(table.columns, device, scale_up_fabric(accelerator, node).bytes_per_s, over_host)
        result.take("collective", found, table, _values(fit.collective_constants(found.values)))  # type: ignore[arg-type]


def _wide(table: Table | None) -> Table | None:
    if table is None:
        return None
    keep = (table.columns["n"] >= MIN_WIDTH) & (table.columns["k"] >= MIN_WIDTH)
    return Table({name: column[keep] for name, column in table.columns.items()}, table.origin)


def _values(constants: Spec) -> dict[str, float | bool]:
    dumped = constants.model_dump().items()
    return {name: value if isinstance(value, bool) else float(f"{value:.4g}") for name, value in dumped}


def entry_yaml(accelerator: AcceleratorSpec, result: Calibration, date: str) -> str:
    """The calibration entry as YAML, with its sources, samples, errors and residual quantiles."""
    tables = ", ".join(f"{name}: {origin}" for name, origin in result.origins.items())
    entry = {
        "extends": "generic",
        "name": accelerator.name,
        **result.entry,
        "samples": {name: found.samples for name, found in result.fits.items()},
        "errors": {name: round(found.median_error, 4) for name, found in result.fits.items()},
        "intervals": {name: [round(q, 4) for q in found.interval] for name, found in result.fits.items()},
        "sources": [
            {
                "kind": "calibrated",
                "source": "fitted to the measured kernels of aiconfigurator-core 0.12 (Apache-2.0); " + tables,
                "date": date,
            },
            {
                "fields": ["elementwise_efficiency", "elementwise_launch_s"],
                "kind": "assumed",
                "source": "as in the generic entry",
                "date": date,
            },
        ],
    }
    return yaml.safe_dump(entry, sort_keys=False, width=110)


def main() -> None:
    """Command line of the calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("accelerators", nargs="*", default=list(SYSTEMS))
    parser.add_argument("--tables", default=None)
    parser.add_argument("--date", default="2026-11")
    given = parser.parse_args()
    folder = tables_folder(given.tables)
    out = Path(__file__).parents[2] / "catalogue" / "calibration"
    for name in given.accelerators:
        accelerator: AcceleratorSpec = resolve("accelerators", name)
        result = calibrate(accelerator, folder)
        if not result.fits:
            print(f"{name:16} no tables")
            continue
        (out / f"{name}.yaml").write_text(entry_yaml(accelerator, result, given.date), encoding="utf-8")
        for key, found in result.fits.items():
            print(
                f"{name:16} {key:12} {found.samples:7} rows  median {found.median_error:6.1%}  "
                f"p90 {found.p90_error:6.1%}  bias {found.bias:+6.1%}  ({result.origins[key]})",
                flush=True,
            )


if __name__ == "__main__":
    main()
