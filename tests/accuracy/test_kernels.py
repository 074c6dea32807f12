"""Kernel costs against measurements that no fit has seen: Vidur's profiles of linear layers and all-reduce.

Those were taken with other libraries, years before the tables the constants are fitted to, layer by layer and
with gaps between launches; the budgets are wider than the held-out error of the fits for that reason.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from helpers import shared_file
from windtunnel.cost.collective import all_reduce_seconds, link_of
from windtunnel.cost.device import calibration, device_of
from windtunnel.cost.gemm import gemm_seconds
from windtunnel.specs.assemble import deployment
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

MODELS = {"Llama-2-7b-hf": "llama-2-7b", "Llama-2-70b-hf": "llama-2-70b"}
DEVICES = {"a100": "a100-80g-sxm", "h100": "h100-sxm"}


def shapes(model_name: str, tp: int) -> dict[str, tuple[int, int]]:
    """(n, k) of the profiled products on one rank, by column."""
    model = resolve("models", model_name)
    q, kv = model.heads * model.head_dim // tp, max(model.kv_heads // tp, 1) * model.head_dim
    return {
        "attn_pre_proj": (q + 2 * kv, model.hidden),
        "attn_post_proj": (model.hidden, q),
        "mlp_up_proj": (2 * model.ffn // tp, model.hidden),
        "mlp_down_proj": (model.hidden, model.ffn // tp),
    }


def gemm_errors(device_name: str, profile: str) -> np.ndarray:
    path = shared_file("data", "kernels", f"vidur_{device_name}_{profile}_mlp.csv")
    frame = pl.read_csv(path)
    device = device_of(resolve("accelerators", DEVICES[device_name]))
    found = []
    for (tp,), part in frame.group_by("num_tensor_parallel_workers"):
        for column, (n, k) in shapes(MODELS[profile], int(tp)).items():
            measured = part[f"time_stats.{column}.median"].to_numpy() * 1e-3
            rows = part["num_tokens"].to_numpy()
            # Below this the profile shows the launch of the kernel, not the kernel.
            keep = measured > 50e-6
            found.append(gemm_seconds(rows[keep], n, k, device) / measured[keep] - 1.0)
    return np.concatenate(found)


@pytest.mark.parametrize("profile", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_linear_layers_of_another_profile(device: str, profile: str) -> None:
    errors = gemm_errors(device, profile)
    assert len(errors) > 500
    assert np.median(np.abs(errors)) < 0.15
    assert abs(np.median(errors)) < 0.15


@pytest.mark.parametrize(("device", "file"), [("a100-80g-sxm", "a100_dgx"), ("h100-sxm", "h100_dgx")])
def test_all_reduce_of_another_profile(device: str, file: str) -> None:
    frame = pl.read_csv(shared_file("data", "kernels", f"vidur_{file}_all_reduce.csv"))
    frame = frame.filter((pl.col("devices_per_node") == pl.col("num_workers")) & (pl.col("num_workers") > 1))
    frame = frame.filter(pl.col("size") >= 2**25)
    errors = []
    for (ranks,), part in frame.group_by("num_workers"):
        plan = PlanSpec(tensor_parallel=int(ranks))
        link = link_of(deployment("llama-2-70b", device, plan=plan), int(ranks))
        measured = part["time_stats.all_reduce.median"].to_numpy() * 1e-3
        errors.append(all_reduce_seconds(part["size"].to_numpy(), int(ranks), link) / measured - 1.0)
    joined = np.concatenate(errors)
    assert np.median(np.abs(joined)) < 0.25


@pytest.mark.parametrize("device", ["a100-80g-sxm", "h100-sxm", "h200-sxm", "b200-sxm"])
def test_held_out_errors_kept_with_the_constants(device: str) -> None:
    errors = calibration(device).errors
    assert errors["gemm.bf16"] < 0.08
    assert errors["collective"] < 0.15
    assert errors["decode"] < 0.12
