"""Energy of a training step from its work; terms as in `cost.energy`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from windtunnel.cost.energy import energy_shares
from windtunnel.cost.network import domain_of
from windtunnel.cost.training import PhaseSeconds
from windtunnel.operators.operator import Number
from windtunnel.training.layouts import Layouts, PartSeconds


def work_of(parts: Iterable[PartSeconds]) -> PhaseSeconds:
    """All phases of some parts together."""
    done = PhaseSeconds()
    for part in parts:
        done = done + part.forward + part.input_gradient + part.weight_gradient + part.recompute
    return done


def step_joules(layouts: Layouts, done: PhaseSeconds, seconds: Number, busy: Number) -> Number:
    """Joules of all accelerators and their servers in a step.

    Args:
        layouts: the layout, or many.
        done: work of one microbatch through the whole model, one rank of each stage.
        seconds: the step.
        busy: seconds of it in which a rank computes or communicates, on average.
    """
    job, device, shares = layouts.job, layouts.device(), energy_shares().of(layouts.job.accelerator.architecture)
    micros = layouts.microbatches / layouts.pp
    dtype = "fp8" if job.plan.compute_dtype == "mxfp8" else job.plan.compute_dtype
    envelope = job.accelerator.max_w - job.accelerator.idle_w
    drawn = shares.byte_j * micros * done.moved_bytes + envelope * (
        shares.compute_share * micros * done.flops / device.peak_flops_per_s(dtype)
        + shares.link_share * micros * done.sent_bytes / max(job.scale_up.bytes_per_s, 1.0)
        + shares.active_share * busy
    )
    servers = -(-job.gpus // domain_of(job.gpus, job.node.accelerators)) * job.node.host_w
    one = job.accelerator.idle_w * seconds + np.minimum(drawn, envelope * seconds)
    return one * job.gpus + servers * seconds
