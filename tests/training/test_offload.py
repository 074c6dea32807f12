"""Offload: what it moves, holds and takes, and which published jobs fit."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import InfeasibleError, SpecError
from windtunnel.specs.training import TrainingJob, TrainingPlan
from windtunnel.specs.training_check import training_job
from windtunnel.training.memory import account
from windtunnel.training.offload import check_offload, offload_need, offload_time

HALF: dict[str, Any] = {"weight_dtype": "fp16", "compute_dtype": "fp16", "grad_dtype": "fp16", "recompute": "full"}
INFINITY: dict[str, Any] = HALF | {
    "zero_stage": 3,
    "offload_optimizer": "nvme",
    "offload_weights": "nvme",
    "offload_activations": "host",
}
FUYOU: dict[str, Any] = INFINITY | {"offload_activations": "nvme", "offload_overlap": True}


def one_gpu(model: str, batch: int, plan: dict[str, Any], device: str = "rtx-4090", node: str = "") -> TrainingJob:
    return training_job(
        model,
        device,
        gpus=1,
        global_batch_sequences=batch,
        seq_len=1024,
        plan=TrainingPlan(**plan, micro_batch=batch),
        node=node or None,
        engine="deepspeed",
    )


def workstation(model: str, batch: int, plan: dict[str, Any]) -> TrainingJob:
    return one_gpu(model, batch, plan, node="rtx-4090-nvme-workstation")


def test_fuyou_holds_175b_where_zero_infinity_does_not() -> None:
    """arXiv:2403.06504: GPT-3 175B on an RTX 4090 with 768 GB of host memory."""
    fuyou = workstation("gpt-3-175b", 8, FUYOU)
    account(fuyou).check()
    check_offload(fuyou)
    with pytest.raises(InfeasibleError, match="host memory"):
        check_offload(workstation("gpt-3-175b", 8, INFINITY))
    check_offload(workstation("gpt-3-13b", 8, INFINITY))


def test_overlapped_updates_are_worth_what_fuyou_reports_in_kind() -> None:
    """GPT-3 13B: 156 TFLOPS for 45 of ZeRO-Infinity; both count recomputation, batches are not stated together."""
    flops = {}
    for name, plan, batch in (("infinity", INFINITY, 8), ("fuyou", FUYOU, 32)):
        job = workstation("gpt-3-13b", batch, plan)
        forward = 2.0 * job.model.parameters() * job.tokens
        peak = job.accelerator.peak_flops_per_s["fp16"]
        flops[name] = 4.0 * forward / offload_time(job, forward / peak, 3.0 * forward / peak).step_s / 1e12
    assert flops["fuyou"] > 2.0 * flops["infinity"]
    assert 40 < flops["infinity"] < 80
    assert flops["fuyou"] == pytest.approx(156, rel=0.1)


def test_zero_offload_trains_13b_on_one_v100() -> None:
    """arXiv:2101.06840: 13 billion parameters on one 32 GB V100, where plain training fits 1.4 billion."""
    offloaded = HALF | {"zero_stage": 2, "offload_optimizer": "host"}
    assert account(one_gpu("gpt-3-13b", 1, offloaded, "v100-32g-sxm")).fits
    assert not account(one_gpu("gpt-3-13b", 1, HALF, "v100-32g-sxm")).fits
    assert account(one_gpu("gpt2-xl", 1, HALF, "v100-32g-sxm")).fits


def test_traffic_of_zero_offload_is_four_bytes_a_parameter() -> None:
    """Section 3.3: 16-bit gradients out and 16-bit weights back."""
    job = one_gpu("gpt-3-13b", 1, HALF | {"zero_stage": 2, "offload_optimizer": "host"}, "v100-32g-sxm")
    need = offload_need(job)
    moved = need.backward.to_host + need.update.to_device
    assert moved == pytest.approx(4 * job.model.parameters(), rel=1e-3)
    assert need.nvme_bytes == 0
    assert need.update.host_touched == pytest.approx(28 * job.model.parameters(), rel=1e-3)


def test_states_on_nvme_take_twelve_bytes_a_parameter_each_way() -> None:
    job = workstation("gpt-3-13b", 4, FUYOU)
    need = offload_need(job)
    parameters = job.model.parameters()
    assert need.update.read == pytest.approx(12 * parameters, rel=1e-3)
    assert need.update.written == pytest.approx(14 * parameters, rel=1e-3)
    assert need.nvme_bytes > 14 * parameters


def test_overlap_never_takes_longer_and_more_compute_never_less() -> None:
    for batch in (1, 4, 16):
        plain = workstation("gpt-3-13b", batch, FUYOU | {"offload_overlap": False})
        overlapped = workstation("gpt-3-13b", batch, FUYOU)
        for compute in (0.1, 1.0, 10.0):
            slow, fast = (offload_time(job, compute, 3 * compute) for job in (plain, overlapped))
            assert fast.step_s <= slow.step_s
            assert slow.step_s >= 4 * compute


def test_a_node_without_drives_cannot_take_them() -> None:
    with pytest.raises(InfeasibleError, match="NVMe"):
        check_offload(one_gpu("gpt-3-13b", 1, INFINITY, "v100-32g-sxm"))


def test_a_node_that_does_not_state_its_rates_is_named() -> None:
    job = one_gpu("gpt-3-13b", 1, HALF | {"zero_stage": 2, "offload_optimizer": "host"}, "rtx-4090")
    bare = job.model_copy(update={"node": job.node.model_copy(update={"host_bandwidth_bytes_per_s": 0.0})})
    check_offload(job)
    with pytest.raises(SpecError, match="host_bandwidth_bytes_per_s"):
        check_offload(bare)
