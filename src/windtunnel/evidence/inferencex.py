"""Rows of an InferenceX table as claims: two a row, the time to the first token and the time per token after it.

The public harness sends `random` prompts and outputs whose lengths are uniform between 0.8 of the
stated length and the stated length, keeps `concurrency` requests in flight, and sends ten times as many.
Rows of other lengths come from aiconfigurator's own benchmark: its guide sends as many requests, all of the stated
lengths (a standard deviation of zero), to servers that its generator has written the settings of.
"""

from __future__ import annotations

import math

from windtunnel.evidence.inferencex_servers import LENGTHS, REQUESTS_PER_CLIENT, Layout, Server, server_of
from windtunnel.evidence.naming import accelerator_named, dtype_named, engine_named, model_named
from windtunnel.evidence.scenario import Claim, Scenario
from windtunnel.evidence.serving import NotExpressedError, laid_out
from windtunnel.evidence.table import Row, Table
from windtunnel.specs.fields import DTYPE_BYTES, Dtype
from windtunnel.specs.load import resolve

LENGTH_RATIO = 0.8
"""Shortest length over the stated one (`--random-range-ratio` of the harness)."""
MOST_RANKS = 16
"""Tensor-parallel ranks of one worker at most. A dump of GB200 states 12 to 72, most of which divide no model's heads:
the accelerators of all workers of a disaggregated run, as its change log lists them."""


def inferencex_claims(table: Table) -> list[Claim]:
    """Two claims a row."""
    return [claim for row in table.rows for claim in claims_of_row(row)]


def claims_of_row(row: Row) -> tuple[Claim, Claim]:
    """The claims `ID/ttft` and `ID/tpot` of a row."""
    scenario, why = None, ""
    try:
        scenario = _scenario(row)
    except NotExpressedError as error:
        why = str(error)
    common = {"line": row.line, "factor": 1e3, "scenario": scenario, "why": why}
    name = row.text("id")

    def claim(metric: str, value: str) -> Claim:
        measured = row.number(f"silicon_{metric}_ms")
        return Claim(id=f"{name}/{metric}", measured=measured, value=value, tags=_tags(row, metric), **common)  # type: ignore[arg-type]

    return claim("ttft", "ttft_mean_s"), claim("tpot", "tpot_mean_s")


def _tags(row: Row, metric: str) -> dict[str, str]:
    return {
        "source": "InferenceX",
        "gpu": row.text("system"),
        "model": row.text("model_path"),
        "metric": metric,
        "tier": "A",
        "split": row.text("split"),
        "engine": f"{row.text('backend')} {row.text('backend_version')}".strip(),
        "mode": row.text("mode"),
    }


def _scenario(row: Row) -> Scenario:
    if row.text("mode") != "agg":
        raise NotExpressedError("prefill and decode on separate workers are not simulated yet")
    accelerator, model = accelerator_named(row.text("system")), model_named(row.text("model_path"))
    if accelerator is None:
        raise NotExpressedError(f"accelerator {row.text('system')!r} is not in the catalogue")
    if not model:
        raise NotExpressedError(f"model {row.text('model_path')!r} is not in the catalogue")
    engine = engine_named(row.text("backend"), row.text("backend_version"), "agg", accelerator[0])
    if not engine:
        raise NotExpressedError(f"no preset for engine {row.text('backend')!r}")
    concurrency = row.number("concurrency")
    lengths = row.count("isl"), row.count("osl")
    if not concurrency >= 1 or min(lengths) < 1:
        raise NotExpressedError("lengths or concurrency are not stated")
    weights, dense = _formats(row, model)
    layout = layout_of(row)
    if layout.ranks > MOST_RANKS and layout.attention_dp == 1:
        raise NotExpressedError(f"TP{layout.ranks} is the ranks of a disaggregated run, stated as one worker's")
    server = server_of(row, model, accelerator[0], layout)
    if server and server.unclear:
        raise NotExpressedError(server.unclear)
    if server and server.dense_dtype:
        dense = server.dense_dtype
    plan = laid_out(
        model,
        accelerator[0],
        weights,
        _cache_dtype(server, weights),
        tp=layout.ranks,
        pp=max(1, row.count("pp_size")),
        ep=layout.experts,
        dp=layout.attention_dp,
    )
    clients = math.floor(concurrency)
    ratio = 1.0 if server and server.fixed_lengths else LENGTH_RATIO
    mean = (1.0 + ratio) / 2.0
    if lengths not in LENGTHS:
        # What is stated is the mean.
        lengths = round(lengths[0] / mean), round(lengths[1] / mean)
    means = round(lengths[0] * mean), round(lengths[1] * mean)
    return Scenario(
        model=model,
        accelerator=accelerator[0],
        engine=engine,
        plan=plan,
        mode="closed",
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        batch=clients,
        requests=(server.requests_per_client if server else REQUESTS_PER_CLIENT) * clients,
        length_ratio=ratio,
        dense_dtype=dense,
        max_num_seqs=server.at_once(clients) if server else 0,
        max_num_batched_tokens=server.budget(*lengths, clients, layout.attention_dp) if server else 0,
        drafts=server.drafts_of(layout.attention_dp) if server else 0,
        waited_steps=server.waited_steps(*means, clients, layout.ranks, layout.attention_dp) if server else 0.0,
        cache_share=server.cache_share if server else 0.0,
        graph_tokens=server.captured(*lengths, clients, layout) if server else 0,
    )


def _cache_dtype(server: Server | None, weights: Dtype) -> Dtype:
    """Format of keys and values: 8 bits on the harness's servers unless their entry says otherwise."""
    if server is None:
        return "fp8"
    if server.cache_dtype == "as weights":
        return "fp8" if DTYPE_BYTES[weights] <= 1.0 else weights
    return server.cache_dtype


def layout_of(row: Row) -> Layout:
    """The layout of a row's aggregated worker.

    Some of the dumps state a layout of k ranks with EP k as k * k: the same measurement stands in the
    table as TP k, EP k and as TP k * k, MoE TP k, MoE EP k (attention DP likewise).
    """
    tp, attention_dp = row.count("tp_size"), row.count("attention_dp_size")
    moe_tp, moe_ep = max(1, row.count("moe_tp_size")), max(1, row.count("moe_ep_size"))
    if tp < 1:
        raise NotExpressedError("the layout is not stated")
    if attention_dp < 1:
        return Layout(tp, max(1, moe_tp * moe_ep // tp), moe_ep)
    if moe_tp == moe_ep > 1 and tp * attention_dp == moe_tp * moe_ep:
        return Layout(moe_tp, 1, moe_ep) if attention_dp == 1 else Layout(1, moe_tp, moe_ep)
    if moe_tp == 1 and tp == attention_dp > 1 and moe_ep == tp * attention_dp:
        return Layout(tp, 1, tp)
    return Layout(tp, attention_dp, moe_ep)


def _formats(row: Row, model: str) -> tuple[Dtype, str]:
    """(format of the routed experts or of all matrices, format of the rest) of a row."""
    spec = resolve("models", model)
    precision = dtype_named(row.text("precision"), spec.dtype)
    dense = dtype_named(row.text("gemm_quant_mode"), precision)
    routed = dtype_named(row.text("moe_quant_mode"), dense)
    if precision is None or dense is None or routed is None:
        raise NotExpressedError("the number format is not known")
    if spec.moe is None:
        return dense, ""
    if spec.dense_dtype is not None and spec.dtype == "mxfp4":
        return "mxfp4", spec.dense_dtype
    return routed, dense
