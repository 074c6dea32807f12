"""What text, JSON and pages say about a training step: groups of parts, limits, intervals."""

from __future__ import annotations

from dataclasses import dataclass

from windtunnel.evidence.intervals import end_to_end
from windtunnel.training.answer import Candidate
from windtunnel.training.reasons import WORDS
from windtunnel.training.step import StepTime, peak_flops_per_s

GROUPS = {
    "compute": ("forward", "backward", "recompute"),
    "communication": ("tensor", "context", "expert", "data", "pipeline"),
    "the pipeline bubble": ("bubble",),
    "the optimiser": ("optimizer",),
    "offloading": ("offload",),
    "the host": ("host",),
}
"""Parts of a step by what would have to be better to shorten them."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the step.

    Attributes:
        name: its key in `training.step.PARTS`.
        said: as a person calls it.
        seconds: mean over the pipeline ranks.
        share: of the step.
    """

    name: str
    said: str
    seconds: float
    share: float


def parts_of(step: StepTime) -> list[Part]:
    """The parts that take any time, in the order of the step."""
    shown = ((name, step.parts[name]) for name in WORDS)
    return [Part(name, WORDS[name], s, s / step.seconds) for name, s in shown if s > 1e-6 * step.seconds]


def binding(step: StepTime) -> list[tuple[str, float]]:
    """(what binds, its share of the step), the largest first; shares under 2 % are left out."""
    shares = {what: sum(step.parts[name] for name in names) / step.seconds for what, names in GROUPS.items()}
    return sorted(((what, share) for what, share in shares.items() if share >= 0.02), key=lambda one: -one[1])


def limit_s(step: StepTime) -> float:
    """Seconds of the step's model FLOPs at the peak rate of the plan's arithmetic, nothing else."""
    return step.model_flops / step.job.gpus / peak_flops_per_s(step.job)


def rate_band(provenance: str) -> tuple[float, float]:
    """The 80 % interval of training rates as factors, from published steps that the band's fit may see; nan if none."""
    known = end_to_end()
    for name in (f"training training {provenance}", "training training", "training"):
        band = known.bands.get(name)
        if band is not None:
            wider = provenance == "datasheet" and "datasheet" not in name
            growth = known.growth_by.get("training", known.growth)
            power = growth * (known.datasheet if wider else 1.0)
            return float(band.low**power), float(band.high**power)
    return float("nan"), float("nan")


def seconds_interval(step: StepTime) -> tuple[float, float]:
    """The step's 80 % interval, seconds."""
    low, high = rate_band(step.provenance)
    return step.seconds / high, step.seconds / low


def layout_sentence(candidate: Candidate) -> str:
    """The layout in words: degrees, sharding, recomputation, what is overlapped."""
    job, plan = candidate.job, candidate.job.plan
    said = [f"TP {plan.tensor_parallel}" + (" with sequence parallelism" if plan.sequence_parallel else "")]
    if plan.pipeline_parallel > 1:
        chunks = f" x {plan.virtual_stages} virtual stages" if plan.virtual_stages > 1 else ""
        said.append(f"PP {plan.pipeline_parallel}{chunks} ({plan.pipeline_schedule})")
    if plan.context_parallel > 1:
        said.append(f"CP {plan.context_parallel} ({plan.context_method})")
    if plan.expert_parallel > 1:
        said.append(f"EP {plan.expert_parallel}" + (f" x TP {plan.expert_tensor}" if plan.expert_tensor > 1 else ""))
    said.append(f"DP {job.data_parallel}")
    if plan.zero_stage:
        ranks = f" over {plan.zero_group} ranks" if plan.zero_group else ""
        said.append(f"ZeRO {plan.zero_stage}{ranks}")
    count = f"{job.microbatches:,} microbatch" + ("es" if job.microbatches > 1 else "")
    said.append(f"{count} of {plan.micro_batch} sequence" + ("s" if plan.micro_batch > 1 else ""))
    said.append("no recomputation" if plan.recompute == "none" else f"{plan.recompute} recomputation")
    if plan.tp_overlap:
        said.append("TP collectives overlapped with their products")
    for kind, what in (("optimizer", "optimiser states"), ("activations", "activations"), ("weights", "weights")):
        where = getattr(plan, f"offload_{kind}")
        said += [f"{what} on {'the host' if where == 'host' else 'NVMe'}"] if where != "none" else []
    return ", ".join([*said, f"{plan.compute_dtype} arithmetic"])
