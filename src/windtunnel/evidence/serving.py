"""Rows of a serving table as claims about set-ups.

A row is expressed when its model, accelerator, engine, formats, layout, lengths and metric are known;
otherwise the claim says what is missing. Nothing is guessed for rows that call themselves well known
(tier A); for the others an assumption may be made, and is named.
"""

from __future__ import annotations

import math
import re

from windtunnel.evidence.naming import (
    accelerator_named,
    dtype_named,
    engine_named,
    is_per_accelerator,
    model_named,
    node_named,
)
from windtunnel.evidence.scenario import Claim, Mode, Scenario
from windtunnel.evidence.table import Row, Table
from windtunnel.specs.fields import Dtype
from windtunnel.specs.load import resolve
from windtunnel.specs.plan import PlanSpec

SECONDS = {"s": 1.0, "ms": 1e3, "us": 1e6}
"""Factor from seconds to a table's unit."""

LATENCIES = {
    "e2e_latency": "e2e_s",
    "first_token_latency": "ttft_s",
    "prefill_latency": "ttft_s",
    "decode_step_latency": "decode_step_s",
    "time_per_generated_token_per_sequence": "time_per_generated_token_s",
    "itl_median": "itl_median_s",
    "itl_mean": "tpot_mean_s",
    "ttft_mean_or_median": "ttft_mean_s",
    "tpot_mean_or_median": "tpot_mean_s",
}
"""Metrics in seconds and the outcome's value; those of the form `ttft_p99` follow a rule."""
OTHERS = {
    "output_throughput": ("tok/s", "output_tokens_per_s"),
    "output_throughput_per_gpu": ("tok/s/GPU", "output_tokens_per_s"),
    "total_throughput": ("tok/s", "total_tokens_per_s"),
    "input_throughput": ("tok/s", "input_tokens_per_s"),
    "request_throughput": ("req/s", "requests_per_s"),
    "decode_throughput": ("tok/s", "decode_tokens_per_s"),
    "prefill_throughput": ("tok/s", "prefill_tokens_per_s"),
    "energy_per_output_token": ("J/token", "joules_per_output_token"),
    "avg_power_total": ("W", "mean_w"),
    "avg_power": ("W", "mean_w_per_accelerator"),
    "avg_power_fraction_of_tdp": ("fraction", "power_share"),
}
"""Other metrics: what their unit begins with, and the outcome's value."""
_STATISTIC = re.compile(r"(ttft|tpot|e2e_latency)_(mean|median|p\d\d)")
# Prompt tokens that must be computed, of ML.ENERGY's data sets. Chat: 95 tokens a turn in Chatbot Arena
# (arXiv:2403.04132) and a template; later turns repeat earlier ones, which the prefix cache holds. GPQA: questions and
# choices of some 700 characters. Code completion, whose data set states no lengths: from the time that a prompt adds
# to the steps of Qwen3-Coder-30B on the H100, rows of split fit.
_TASK_INPUT_TOKENS = {"lm-arena-chat": 120, "gpqa": 200, "sourcegraph-fim": 1200}


class NotExpressedError(Exception):
    """A row that is not about anything the model can predict, or does not say enough."""


def claims_of(table: Table) -> list[Claim]:
    """One claim a row."""
    return [claim_of(row) for row in table.rows]


def claim_of(row: Row) -> Claim:
    """The claim of a row, expressed or with the reason why not."""
    metric, unit = row.text("metric_name"), row.text("unit")
    value, factor, why = "", 1.0, ""
    scenario: Scenario | None = None
    assumed: list[str] = []
    try:
        value, factor = metric_value(metric, unit)
        scenario = _scenario(row, assumed)
        if is_per_accelerator(row.text("engine"), row.text("engine_version"), metric):
            factor /= _count(row, "n_gpus", scenario.plan.accelerators)
        if scenario.mode == "static" and value in ("ttft_mean_s", "ttft_p50_s"):
            value = "ttft_s"
        if scenario.mode == "static" and value == "tpot_mean_s":
            value = "decode_step_s"
    except NotExpressedError as error:
        scenario, why = None, str(error)
    return Claim(
        id=row.text("id"),
        line=row.line,
        measured=row.number("metric_value"),
        value=value,
        factor=factor,
        scenario=scenario,
        why=why,
        tags=tags_of(row),
        assumed=tuple(assumed),
    )


def tags_of(row: Row) -> dict[str, str]:
    """What errors are grouped by."""
    source = row.text("group").split("|")[0] or row.text("source").split(" ")[0]
    return {
        "source": source,
        "gpu": row.text("gpu"),
        "model": row.text("model"),
        "metric": row.text("metric_name"),
        "tier": row.text("tier"),
        "split": row.text("split"),
        "engine": f"{row.text('engine')} {row.text('engine_version')}".strip(),
        "mode": row.text("mode"),
    }


def metric_value(metric: str, unit: str) -> tuple[str, float]:
    """(name of the outcome's value, factor to the table's unit) of a metric.

    Raises:
        NotExpressedError: the metric or its unit is not one that is predicted.
    """
    found = _STATISTIC.fullmatch(metric)
    value = LATENCIES.get(metric, "")
    if found:
        name, statistic = found.groups()
        statistic = "p50" if statistic == "median" else statistic
        value = f"{name.removesuffix('_latency')}_{statistic}_s"
    if value:
        if unit not in SECONDS:
            raise NotExpressedError(f"unit {unit!r} of {metric} is not one of {', '.join(SECONDS)}")
        return value, SECONDS[unit]
    if metric not in OTHERS:
        raise NotExpressedError(f"metric {metric} is not predicted")
    begins, value = OTHERS[metric]
    if not unit.startswith(begins):
        raise NotExpressedError(f"unit {unit!r} of {metric} does not begin with {begins}")
    return value, 1.0


def _scenario(row: Row, assumed: list[str]) -> Scenario:
    accelerator = accelerator_named(row.text("gpu"))
    if accelerator is None:
        raise NotExpressedError(f"accelerator {row.text('gpu')!r} is not in the catalogue")
    model = model_named(row.text("model"))
    if not model:
        raise NotExpressedError(f"model {row.text('model')!r} is not in the catalogue")
    engine = engine_named(row.text("engine"), row.text("engine_version"), row.text("mode"), accelerator[0])
    if not engine:
        raise NotExpressedError(f"no preset for engine {row.text('engine')!r}")
    plan = plan_of(row, model, accelerator[0], assumed)
    mode, batch, requests = _mode(row)
    return Scenario(
        model=model,
        accelerator=accelerator[0],
        engine=engine,
        plan=plan,
        mode=mode,
        input_tokens=_length(row, "input_len", assumed),
        output_tokens=_length(row, "output_len", assumed),
        batch=batch,
        requests=requests,
        node=node_named(row.text("source"), accelerator[0]),
        power_cap_w=accelerator[1],
    )


def plan_of(row: Row, model: str, accelerator: str, assumed: list[str]) -> PlanSpec:
    """The layout and number formats that a row states."""
    tp, pp = _count(row, "tp", 0), _count(row, "pp", 1)
    ep, dp, total = _count(row, "ep", 1), _count(row, "dp", 1), _count(row, "n_gpus", 0)
    if not tp:
        if not total:
            raise NotExpressedError("neither layout nor number of accelerators is stated")
        tp = max(1, total // (pp * dp))
        assumed.append(f"layout not stated: TP{tp}")
    if ep > tp * dp and total == ep * pp:
        # Only the experts' spread is stated; engines then run attention over the same ranks.
        assumed.append(f"attention's layout not stated: TP{ep}")
        tp, dp = ep, 1
    weights = dtype_named(row.text("dtype_weights"), "bf16")
    kv = dtype_named(row.text("dtype_kv"), "bf16")
    if weights is None or kv is None:
        label = row.text("dtype_weights") if weights is None else row.text("dtype_kv")
        raise NotExpressedError(f"number format {label!r} is not known")
    return laid_out(model, accelerator, weights, kv, tp=tp, pp=pp, ep=ep, dp=dp)


def laid_out(
    model: str, accelerator: str, weights: Dtype, kv: Dtype, *, tp: int, pp: int, ep: int = 1, dp: int = 1
) -> PlanSpec:
    """A plan of the catalogue's words; what the plan cannot say is not expressed.

    With experts and `ep = dp * tp`, attention is data parallel over the ranks that share the experts.
    """
    spec, device = resolve("models", model), resolve("accelerators", accelerator)
    replicas, attention_dp = dp, 1
    if spec.moe is not None and dp > 1 and ep > 1:
        replicas, attention_dp = 1, dp
    if spec.moe is None:
        ep = 1
    if ep > 1 and (attention_dp * tp) % ep:
        raise NotExpressedError(f"EP{ep} does not divide the {attention_dp * tp} ranks that share the experts")
    compute: Dtype | None = None
    native = PlanSpec(weight_dtype=weights).matmul_dtype
    peaks = device.peak_flops_per_s
    if weights == "mxfp4" and "mxfp4" in peaks:
        compute = "fp8"  # 4-bit experts meet 8-bit activations on devices that multiply them directly
    elif native not in peaks:
        compute = "bf16" if "bf16" in peaks else "fp16"
    return PlanSpec(
        tensor_parallel=tp,
        attention_data_parallel=attention_dp,
        pipeline_parallel=pp,
        expert_parallel=max(1, ep),
        replicas=replicas,
        weight_dtype=weights,
        compute_dtype=compute,
        kv_dtype=kv,
    )


def _mode(row: Row) -> tuple[Mode, float, int]:
    """(mode, batch or clients, requests in all)."""
    stated, batch = row.text("mode"), row.number("concurrency_or_batch")
    if stated in ("static batch", "latency"):
        if not batch >= 1:
            raise NotExpressedError("the batch is not stated")
        return "static", batch, 0
    if stated == "offline max throughput":
        if not batch >= 1:
            raise NotExpressedError("the number of requests is not stated")
        return "offline", batch, int(batch)
    if stated == "fixed concurrency":
        if not batch > 0:
            raise NotExpressedError("the concurrency is not stated")
        if "avg running batch" in row.text("notes"):
            return "steady", batch, 0
        return "closed", batch, int(10 * batch)
    raise NotExpressedError(f"mode {stated!r}: the arrivals are not in the row")


def _length(row: Row, column: str, assumed: list[str]) -> int:
    text, value = row.text(column), row.number(column)
    if math.isfinite(value) and value >= 0:
        return round(value)
    for task, tokens in _TASK_INPUT_TOKENS.items():
        if text.startswith(task):
            assumed.append(f"{column} of {task} not stated: {tokens} tokens")
            return tokens
    said = f"{text!r} is not a number" if text else "is not stated"
    raise NotExpressedError(f"{column} {said}")


def _count(row: Row, column: str, default: int) -> int:
    value = row.count(column, default)
    return value if value > 0 else default
