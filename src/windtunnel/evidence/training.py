"""Rows of a training table as claims, predicted by the training model."""

from __future__ import annotations

import math
from functools import lru_cache

from windtunnel.errors import WindtunnelError
from windtunnel.evidence.scenario import Claim
from windtunnel.evidence.serving import tags_of
from windtunnel.evidence.table import Row, Table
from windtunnel.evidence.training_jobs import FlopCount, job_of, recipe_of
from windtunnel.evidence.training_memory import predicted_memory
from windtunnel.specs.model import ModelSpec
from windtunnel.specs.training import TrainingJob
from windtunnel.training.flops import attention_flops_per_token, matmul_parameters, training_flops_per_token
from windtunnel.training.step import StepTime, peak_flops_per_s, price

RATES = ("tokens_per_sec_per_gpu", "TFLOPs_per_gpu", "MFU", "HFU", "iteration_time_s")


def predict_training(row: Row) -> tuple[float, str] | str:
    """(prediction in the row's own unit, provenance) of a training row, or why there is none."""
    metric = row.text("metric_name")
    try:
        job = job_of(row)
        if metric == "memory_GB":
            return predicted_memory(row, job), "calculated"
        if metric not in RATES:
            return f"metric {metric!r} is not one that is predicted"
        step = _step(job.model_dump_json())
    except WindtunnelError as error:
        return str(error).splitlines()[0]
    recipe = recipe_of(row)
    assert recipe is not None  # else the job would not stand
    return _figure(metric, step, recipe.flops), step.provenance


def _figure(metric: str, step: StepTime, count: FlopCount) -> float:
    """A rate in the row's own unit."""
    if metric == "iteration_time_s":
        return step.seconds
    if metric == "tokens_per_sec_per_gpu":
        return step.tokens_per_s_per_gpu
    flops_per_s = step.tokens_per_s_per_gpu * counted_flops(step.job, count)
    if metric == "TFLOPs_per_gpu":
        return flops_per_s / 1e12
    return 100.0 * flops_per_s / peak_flops_per_s(step.job)


def counted_flops(job: TrainingJob, count: FlopCount) -> float:
    """FLOPs of a token as a source counts them.

    causal: 6 N and causal attention. causal_ungated: the same with two matrices an MLP and without windows,
    as Megatron-Bridge counted activations other than SiLU before release 26.06. square: the whole square of
    attention. square_recomputed: the same with the layers' forward pass counted twice, as Megatron's formula does
    under full recomputation.
    all_parameters_square: 6 times all parameters, embedding included. sc21: Narayanan et al. 2021, eq. 3,
    recomputation included.
    """
    m, s = job.model, job.seq_len
    if count == "sc21":
        h = float(m.hidden)
        return 96.0 * m.layers * h * h * (1 + s / (6 * h) + m.vocab / (16 * m.layers * h))
    if count == "causal":
        return training_flops_per_token(m, s, mtp_layers=job.plan.mtp_layers)
    if count == "causal_ungated":
        even = m.model_copy(update={"gated_mlp": False, "window_layers": 0})
        return training_flops_per_token(even, s)
    if count == "all_parameters_square":
        return 6.0 * m.parameters() + 12.0 * m.layers * m.hidden * s
    if count == "square_recomputed" and job.plan.recompute == "full":
        return _twice_forward(m, s)
    return training_flops_per_token(m, s, causal=False)


def _twice_forward(m: ModelSpec, s: int) -> float:
    head = m.vocab * m.hidden
    layers = 2.0 * (matmul_parameters(m) - head) + attention_flops_per_token(m, s, causal=False)
    return 4.0 * layers + 6.0 * head


@lru_cache(maxsize=4096)
def _step(job: str) -> StepTime:
    """A job's price; several figures of one run are about the same job."""
    return price(TrainingJob.model_validate_json(job))


def forget() -> None:
    """Price jobs anew, after constants have changed."""
    _step.cache_clear()


def training_claims(table: Table) -> list[Claim]:
    """One claim a row."""
    return [_claim(row) for row in table.rows]


def _claim(row: Row) -> Claim:
    found = predict_training(row)
    predicted, provenance = (math.nan, "") if isinstance(found, str) else found
    return Claim(
        id=row.text("id"),
        line=row.line,
        measured=row.number("metric_value"),
        value=row.text("metric_name"),
        factor=1.0,
        scenario=None,
        why=found if isinstance(found, str) else "",
        tags=tags_of(row) | {"mode": "training"},
        predicted=predicted,
        provenance=provenance,
    )
