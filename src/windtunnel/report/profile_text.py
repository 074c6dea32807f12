"""The answer of `profile` as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.report.text import number, paragraph, percent, table
from windtunnel.units import format_seconds


def profile_text(found: Mapping[str, Any]) -> str:
    """What the device can do, how steady the timings were, and how to use them."""
    rows = [("copies", f"{number(found['bandwidth_bytes_per_s'] / 1e9)} GB/s, read plus written")]
    rows += [(f"products, {kind}", f"{number(rate / 1e12)} TFLOP/s") for kind, rate in found["flops_per_s"].items()]
    rows.append(("smallest kernel", format_seconds(found["launch_s"])))
    if found["power_w"]:
        rows.append(("power under load", f"{number(found['power_w'])} W"))
    spread = f"median {percent(found['spread_p50'])}, widest {percent(found['spread_max'])}"
    rows.append(("spread of timings", f"{spread} (90th less 10th percentile)"))
    return "\n\n".join(
        [
            paragraph(f"{found['points']:,} kernels measured on {found['device']}."),
            table(("", ""), rows, "<<"),
            paragraph(f"Use it with --accelerator {found['file']}"),
        ]
    )
