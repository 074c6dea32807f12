"""Workloads: what holds for any input."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import TraceError
from windtunnel.specs.workload import (
    Arrivals,
    FixedLength,
    LognormalLength,
    QuantileLength,
    Sessions,
    WorkloadSpec,
)
from windtunnel.workload.arrivals import draw_arrivals
from windtunnel.workload.read import read_trace
from windtunnel.workload.summary import prefix_share, summarise
from windtunnel.workload.synthesize import synthesize
from windtunnel.workload.table import RequestTable, request_table
from windtunnel.workload.transform import clip, first, merge, tile, window

seeds = st.integers(0, 2**32 - 1)
lengths = st.one_of(
    st.builds(FixedLength, tokens=st.integers(1, 5000)),
    st.tuples(st.floats(1, 2000), st.floats(1, 8)).map(
        lambda pair: LognormalLength(median_tokens=pair[0], p90_tokens=pair[0] * pair[1], max_tokens=100_000)
    ),
    st.lists(st.floats(1, 9000), min_size=2, max_size=6).map(
        lambda tokens: QuantileLength(
            levels=tuple(np.linspace(0, 1, len(tokens)).tolist()), tokens=tuple(sorted(tokens))
        )
    ),
)
arrivals = st.builds(
    Arrivals,
    kind=st.sampled_from(
        ["poisson", "gamma", "weibull", "onoff", "diurnal", "profile", "uniform", "closed", "at_once"]
    ),
    rate_per_s=st.floats(0.01, 1000),
    cv=st.floats(0.2, 4),
    swing=st.floats(0, 1),
    period_s=st.floats(1, 1e5),
    profile=st.lists(st.floats(0, 9), min_size=1, max_size=5).map(lambda rates: (1.0, *rates)),
    concurrency=st.integers(1, 9),
    think_s=st.floats(0, 9),
)
sessions = st.none() | st.builds(
    Sessions, turns=st.integers(1, 6).map(lambda n: FixedLength(tokens=n)), think_s=st.floats(0, 20)
)
workloads = st.builds(
    WorkloadSpec,
    requests=st.integers(1, 80),
    arrivals=arrivals,
    prompt=lengths,
    output=lengths,
    correlation=st.floats(-1, 1),
    sessions=sessions,
    shared_prefix_tokens=st.integers(0, 300),
    shared_prefix_groups=st.integers(0, 3),
    seed=seeds,
)
tables = workloads.map(synthesize)


def sound(table: RequestTable) -> bool:
    """A table that passes every check of `request_table`."""
    segments = (table.segment_offset, table.segment_id, table.segment_tokens) if table.shares_prefixes else None
    request_table(
        table.arrival_s,
        table.prompt_tokens,
        table.output_tokens,
        after=table.after,
        delay_s=table.delay_s,
        segments=segments,
        output_id=table.output_id,
    )
    return bool(np.all(table.arrival_s >= 0) and np.all(table.delay_s >= 0) and np.all(table.segment_tokens >= 1))


@given(workloads)
@settings(deadline=None)
def test_any_workload_gives_as_many_sound_requests_as_asked(spec: WorkloadSpec) -> None:
    table = synthesize(spec)
    assert len(table) == spec.requests
    assert sound(table)
    assert 0.0 <= prefix_share(table) < 1.0
    json.dumps(summarise(table).as_dict(), allow_nan=False)


@given(st.sampled_from(["poisson", "gamma", "weibull"]), st.floats(0.1, 100), st.floats(0.3, 2.0), seeds)
@settings(deadline=None, max_examples=50)
def test_renewal_arrivals_have_the_rate_and_variation_asked_for(kind: str, rate: float, cv: float, seed: int) -> None:
    n = 20_000
    spec = Arrivals(kind=kind, rate_per_s=rate, cv=cv)  # type: ignore[arg-type]
    cv = 1.0 if kind == "poisson" else cv
    times, _, _ = draw_arrivals(spec, n, np.random.default_rng(seed))
    gaps = np.diff(times, prepend=0.0)
    # mean within 6 standard errors: six so that no seed in a lifetime of runs fails by chance
    assert abs(gaps.mean() * rate - 1) < 6 * cv / math.sqrt(n)
    # the error of a sample cv, from the fourth central moment that the sample itself shows
    squared = ((gaps - gaps.mean()) / gaps.std()) ** 2
    assert abs(gaps.std() / gaps.mean() - cv) < 8 * cv * (squared.std() / 2 + cv) / math.sqrt(n)


@given(tables, st.integers(2, 6000))
@settings(deadline=None)
def test_clipping_conserves_tokens_and_keeps_beginnings(table: RequestTable, limit: int) -> None:
    clipped, report = clip(table, limit)
    assert sound(clipped)
    assert np.all(clipped.prompt_tokens + clipped.output_tokens <= limit)
    assert np.array_equal(clipped.arrival_s, table.arrival_s)
    assert int((table.prompt_tokens - clipped.prompt_tokens).sum()) == report.prompt_tokens_cut
    assert int((table.output_tokens - clipped.output_tokens).sum()) == report.output_tokens_cut
    short = table.prompt_tokens + table.output_tokens <= limit
    assert np.array_equal(clipped.prompt_tokens[short], table.prompt_tokens[short])
    assert report.clipped_requests == int((~short).sum())
    assert bool(report.notes()) == bool(report.clipped_requests)
    if table.shares_prefixes:
        for row in range(len(table)):
            before = table.segment_id[table.segment_offset[row] : table.segment_offset[row + 1]]
            now = clipped.segment_id[clipped.segment_offset[row] : clipped.segment_offset[row + 1]]
            assert np.array_equal(before[: len(now)], now)


@given(st.lists(tables, min_size=1, max_size=3))
@settings(deadline=None, max_examples=50)
def test_merging_sorts_and_loses_nothing(parts: list[RequestTable]) -> None:
    merged = merge(parts)
    assert sound(merged)
    for column in ("arrival_s", "prompt_tokens", "output_tokens", "delay_s"):
        together = np.concatenate([getattr(part, column) for part in parts])
        assert np.array_equal(np.sort(getattr(merged, column)), np.sort(together))
    hits = sum(prefix_share(part) * part.prompt_tokens.sum() for part in parts)
    assert math.isclose(prefix_share(merged) * merged.prompt_tokens.sum(), hits, rel_tol=1e-9, abs_tol=1e-6)


@given(tables, st.integers(1, 4), st.integers(1, 40))
@settings(deadline=None, max_examples=50)
def test_tiling_and_taking_the_first_undo_each_other(table: RequestTable, times: int, n: int) -> None:
    tiled = tile(table, times)
    assert sound(tiled)
    assert len(tiled) == times * len(table)
    back = first(tiled, len(table))
    assert np.array_equal(back.prompt_tokens, table.prompt_tokens)
    assert np.array_equal(back.after, table.after)
    assert np.array_equal(back.segment_id, table.segment_id)
    assert len(first(table, n)) == min(n, len(table))
    assert sound(first(table, n))


@given(tables, st.floats(0, 100), st.floats(0, 100))
@settings(deadline=None, max_examples=50)
def test_windows_split_the_requests(table: RequestTable, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    parts = [window(table, 0, low), window(table, low, high), window(table, high)]
    assert sum(map(len, parts)) == len(table)
    assert all(sound(part) for part in parts if len(part))


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 9999), st.integers(1, 9999)), min_size=1, max_size=50),
    st.sampled_from(["csv", "jsonl", "mooncake", "azure", "parquet"]),
)
@settings(deadline=None)
def test_what_is_written_is_read(steps: list[tuple[int, int, int]], kind: str) -> None:
    arrival_ms = np.cumsum([0] + [step for step, _, _ in steps[1:]])
    rows = [(int(ms), prompt, output) for ms, (_, prompt, output) in zip(arrival_ms, steps, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        write(path, rows, kind)
        table = read_trace(path)
    np.testing.assert_allclose(table.arrival_s, arrival_ms / 1e3, atol=1e-9)
    assert table.prompt_tokens.tolist() == [prompt for _, prompt, _ in rows]
    assert table.output_tokens.tolist() == [output for _, _, output in rows]
    assert not table.shares_prefixes or sound(table)


def write(path: Path, rows: list[tuple[int, int, int]], kind: str) -> None:
    if kind == "csv":
        lines = ["arrival_s,prompt_tokens,output_tokens", *(f"{ms / 1e3!r},{p},{o}" for ms, p, o in rows)]
    elif kind == "azure":
        start = np.datetime64("2023-11-16T18:15:46.000", "ms")
        stamps = [str(start + ms).replace("T", " ") for ms, _, _ in rows]
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
        lines += [f"{stamp},{p},{o}" for stamp, (_, p, o) in zip(stamps, rows, strict=True)]
    elif kind == "jsonl":
        lines = [json.dumps({"arrival_ms": ms, "prompt_tokens": p, "output_tokens": o}) for ms, p, o in rows]
    elif kind == "parquet":
        import polars as pl

        pl.DataFrame(rows, schema=["arrival_ms", "input_tokens", "output_tokens"], orient="row").write_parquet(path)
        return
    else:
        lines = [
            json.dumps({"timestamp": ms, "input_length": p, "output_length": o, "hash_ids": list(range(-(-p // 512)))})
            for ms, p, o in rows
        ]
    path.write_text("\n".join(lines) + "\n")


@given(st.binary(max_size=300), st.sampled_from(["t.csv", "t.jsonl", "t.parquet", "t.json"]))
@settings(deadline=None, max_examples=200)
def test_no_bytes_whatever_make_a_reader_fail_otherwise_than_by_a_trace_error(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with suppress(TraceError):
            read_trace(path)


def json_line(keys: list[str], values: list[str]) -> str:
    """A JSON object whose values are put in as they are, valid or not."""
    return "{" + ", ".join(f'"{key}": {value}' for key, value in zip(keys, values, strict=True)) + "}\n"


broken = st.sampled_from(
    ["", "nan", "-1", "1e99", "x", "inf", '"', "\0", "{", "[1]", "true", "null", "1,2", "🙂", "9" * 400]
)


@given(st.lists(broken, min_size=1, max_size=4), st.sampled_from(["azure", "csv", "mooncake", "burst", "ids"]))
@settings(deadline=None, max_examples=200)
def test_broken_values_are_refused_or_read_never_a_crash(values: list[str], kind: str) -> None:
    cells = (values * 4)[:4]
    text = {
        "azure": f"TIMESTAMP,ContextTokens,GeneratedTokens\n{cells[0]},{cells[1]},{cells[2]}\n",
        "csv": f"arrival_s,prompt_tokens,output_tokens,session\n{','.join(cells)}\n",
        "mooncake": json_line(["timestamp", "input_length", "output_length", "hash_ids"], cells),
        "burst": f"Timestamp,Model,Request tokens,Response tokens\n{','.join(cells)}\n",
        "ids": json_line(["input_tok_ids", "output_toks", "arrival_time_ns", "x"], cells),
    }[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        path.write_text(text, encoding="utf-8")
        with suppress(TraceError):
            read_trace(path)
