"""By how much the machine's speed changed between a profile and a load, and a deployment priced at the new speed.

Each kind of work keeps to its own reference: what Python does to that of Python, kernels bound by arithmetic to the
product's, kernels bound by memory to the read's. An engine has one speed for all measured kernels, which is then the
mean over the load's kernel time, by what bounds it; kernels too small for either bound wait for their launch,
which is Python's kind of work. No number here is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from windtunnel.cost.steps import price_step
from windtunnel.cost.uncertainty import ENGINE_TIMES
from windtunnel.live.measurement import Measurement
from windtunnel.live.reasons import mean_overlap
from windtunnel.live.reference import Reference, read_references, reference_of
from windtunnel.operators.batch import decode_batch, prefill_batch
from windtunnel.specs.deployment import DeploymentSpec

KINDS = {"product": "product_s", "read": "read_s", "host": "host_s"}
BOUND = {"compute": "product", "memory": "read", "latency": "host"}
"""Which reference a kernel keeps to, by what bounds it; what waits for a link does not drift with the machine."""
COMPUTE = ("gemm_compute", "prefill_attention", "experts_compute")
MEMORY = ("gemm_memory", "decode_attention", "experts_memory")


@dataclass(frozen=True, slots=True)
class Drift:
    """Speed during a load over that during the profile; below 1, the machine was slower.

    Attributes:
        product, read, host: by kind of work.
        profiled, loaded: how many references each side has.
    """

    product: float
    read: float
    host: float
    profiled: int
    loaded: int

    @property
    def any(self) -> bool:
        """Whether the speed changed at all, beyond what references of one moment differ by."""
        return (self.product, self.read, self.host) != (1.0, 1.0, 1.0)

    def as_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def drift_of(deployment: DeploymentSpec, measured: Measurement) -> tuple[Drift | None, str]:
    """The drift between a deployment's profile and a measurement, or None and why there is none to tell.

    Raises:
        TraceError: a reference is broken.
    """
    loaded = [reference_of(one, "references") for one in measured.meta.get("references", ())]
    folder = deployment.accelerator.kernels
    profiled = read_references(folder) if folder and Path(folder).is_dir() else ()
    if not loaded or not profiled:
        return None, ""
    software = {one.software for one in (*profiled, *loaded)}
    if len(software) > 1:
        said = " and ".join(sorted(software))
        return None, f"the machine's speed was measured with {said}, which cannot be compared (`bench --reference`)"
    return drift_between(profiled, loaded), ""


def drift_between(profiled: tuple[Reference, ...], loaded: list[Reference]) -> Drift:
    """The drift from some references to others.

    A kind of work has drifted when all its references of the load lie on one side of all those of the profile;
    otherwise they differ by no more than they do among themselves.
    """
    ratios = {}
    for kind, name in KINDS.items():
        before, after = ([float(getattr(one, name)) for one in side] for side in (profiled, loaded))
        apart = max(before) < min(after) or max(after) < min(before)
        ratios[kind] = float(np.exp(np.mean(np.log(before)) - np.mean(np.log(after)))) if apart else 1.0
    return Drift(**ratios, profiled=len(profiled), loaded=len(loaded))


def at_speed(deployment: DeploymentSpec, drift: Drift, shares: Mapping[str, float]) -> DeploymentSpec:
    """The deployment as the drifted machine runs it.

    Args:
        deployment: as profiled.
        drift: the machine's speed relative to then.
        shares: of the time of measured kernels by what bounds them, from `bound_shares`.
    """
    speeds = {"product": drift.product, "read": drift.read, "host": drift.host}
    slowed = sum(share / speeds[BOUND[bound]] if bound in BOUND else share for bound, share in shares.items())
    engine, kernels = deployment.engine, deployment.engine.kernels
    rates = {name: getattr(kernels, name) * drift.product for name in COMPUTE}
    rates |= {name: getattr(kernels, name) * drift.read for name in MEMORY}
    rates["measured"] = kernels.measured / (slowed or 1.0)
    times = {name: getattr(engine, name) / drift.host for name in ENGINE_TIMES}
    moved = engine.model_copy(update={**times, "kernels": kernels.model_copy(update=rates)})
    return deployment.model_copy(update={"engine": moved})


def bound_shares(deployment: DeploymentSpec, measured: Measurement) -> dict[str, float]:
    """How a load's kernel time is divided by what bounds it (compute, memory, latency, link); sums to 1.

    Counted are the prompts of its requests and its decode steps, both of mean size.
    """
    rows = np.flatnonzero(measured.ok & (measured.output_received > 0))
    prompt = np.where(measured.prompt_reported > 0, measured.prompt_reported, measured.prompt_tokens)[rows]
    output = measured.output_received[rows]
    running = float(np.mean(mean_overlap(measured.first_token_s[rows], measured.finish_s[rows])))
    requests = int(np.clip(round(running), 1, deployment.engine.max_num_seqs))
    length = int(np.clip(round(float(prompt.mean())), 1, deployment.engine.max_num_batched_tokens))
    context = round(float(prompt.mean() + output.mean() / 2))
    window = deployment.model.window_tokens
    steps = (
        (len(rows) * float(prompt.mean()) / length, prefill_batch([(0, length)], window)),
        (float(output.sum()) / requests, decode_batch(requests, context, window)),
    )
    seconds: dict[str, float] = {}
    for count, batch in steps:
        for row in price_step(deployment, batch).operators:
            bound = row.cost.bound_by
            seconds[bound] = seconds.get(bound, 0.0) + count * row.seconds
    total = sum(seconds.values())
    return {bound: each / total for bound, each in seconds.items()} if total > 0 else {}
