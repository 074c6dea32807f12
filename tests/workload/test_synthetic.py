"""Synthetic traffic: what the packaged workloads and the generators give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from helpers import shared_file
from windtunnel.errors import SpecError, TraceError
from windtunnel.specs.load import names
from windtunnel.specs.workload import (
    Arrivals,
    FixedLength,
    LognormalLength,
    QuantileLength,
    Sessions,
    WorkloadSpec,
)
from windtunnel.workload.arrivals import draw_arrivals, from_profile_time, to_profile_time, weibull_shape
from windtunnel.workload.fit import fit_workload
from windtunnel.workload.lengths import at_quantile, draw_lengths, mean_tokens
from windtunnel.workload.load import load_workload
from windtunnel.workload.read import read_trace
from windtunnel.workload.summary import dispersion, rank_correlation, summarise
from windtunnel.workload.synthesize import synthesize
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("name", names("workloads"))
def test_every_packaged_workload_loads_and_names_its_source(name: str) -> None:
    loaded = load_workload(name)
    assert loaded.name == name
    assert len(loaded.table) > 100
    summary = summarise(loaded.table)
    assert summary.prompt_mean_tokens > summary.output_mean_tokens > 1


@pytest.mark.parametrize(("name", "file"), [("azure-conversation", "conv"), ("azure-code", "code")])
def test_packaged_azure_workloads_resemble_the_traces(name: str, file: str) -> None:
    trace = read_trace(shared_file("data", "traces", f"AzureLLMInferenceTrace_{file}.csv"))
    table = load_workload(name).table
    real, drawn = summarise(trace), summarise(table)
    for level in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
        # a drawn quantile must lie within 3 % of the trace's, or where chance may put it (4 sigma)
        spread = 4 * math.sqrt(level * (1 - level) / len(table))
        for column in ("prompt_tokens", "output_tokens"):
            low, high = np.quantile(getattr(trace, column), [max(level - spread, 0), min(level + spread, 1)])
            assert 0.97 * low - 1 <= np.quantile(getattr(table, column), level) <= 1.03 * high + 1, (column, level)
    assert drawn.requests == real.requests
    assert drawn.rate_per_s == pytest.approx(real.rate_per_s, rel=0.02)
    assert drawn.prompt_mean_tokens == pytest.approx(real.prompt_mean_tokens, rel=0.02)
    assert drawn.output_mean_tokens == pytest.approx(real.output_mean_tokens, rel=0.05)
    assert drawn.correlation == pytest.approx(real.correlation, abs=0.03)
    assert drawn.gap_cv == pytest.approx(real.gap_cv, rel=0.12)
    for got, wanted in zip(drawn.dispersion, real.dispersion, strict=True):
        assert got == pytest.approx(wanted, rel=0.35)


def test_azure_packages_are_what_fitting_the_traces_gives() -> None:
    for name, file, interval_s in (("azure-conversation", "conv", 60.0), ("azure-code", "code", 5.0)):
        real = read_trace(shared_file("data", "traces", f"AzureLLMInferenceTrace_{file}.csv"))
        fitted = fit_workload(real, name, interval_s)
        from windtunnel.specs.load import resolve

        packaged = resolve("workloads", name)
        for field in ("requests", "arrivals", "prompt", "output", "correlation"):
            assert getattr(packaged, field) == getattr(fitted, field)


def test_on_off_is_silent_between_bursts_and_keeps_the_rate() -> None:
    arrivals = Arrivals(kind="onoff", rate_per_s=5, on_s=2, off_s=6)
    times, _, _ = draw_arrivals(arrivals, 40_000, rng())
    assert np.all(times % 8.0 <= 2.0)
    assert 40_000 / times[-1] == pytest.approx(5, rel=0.03)


def test_diurnal_rate_swings_as_asked() -> None:
    arrivals = Arrivals(kind="diurnal", rate_per_s=10, swing=0.8, period_s=1000)
    times, _, _ = draw_arrivals(arrivals, 200_000, rng())
    phase = times[times < 20_000] % 1000
    counts, _ = np.histogram(phase, bins=20, range=(0, 1000))
    middle = (np.arange(20) + 0.5) / 20
    wanted = 10 * 1000 * (1 + 0.8 * np.sin(2 * math.pi * middle))
    assert np.all(np.abs(counts - wanted) < 5 * np.sqrt(wanted) + 0.005 * wanted)


def test_profile_repeats_and_leaves_empty_intervals_empty() -> None:
    arrivals = Arrivals(kind="profile", rate_per_s=4, profile=(1, 0, 3), interval_s=10)
    times, _, _ = draw_arrivals(arrivals, 30_000, rng())
    counts = np.bincount(((times % 30) // 10).astype(int), minlength=3)
    assert counts[1] <= 2  # a time may fall on the edge itself
    assert counts[2] / counts[0] == pytest.approx(3, rel=0.05)
    assert 30_000 / times[-1] == pytest.approx(4, rel=0.03)
    np.testing.assert_allclose(from_profile_time(to_profile_time(times, arrivals), arrivals), times, atol=1e-6)


def test_profile_needs_a_rate() -> None:
    with pytest.raises(ValidationError, match="at least one rate above 0"):
        Arrivals(kind="profile", profile=(0.0, 0.0))


def test_closed_loop_and_at_once() -> None:
    arrival_s, after, delay_s = draw_arrivals(Arrivals(kind="closed", concurrency=3, think_s=2), 5, rng())
    assert arrival_s.tolist() == [0.0] * 5
    assert after.tolist() == [AT_ARRIVAL] * 3 + [AFTER_ANY] * 2
    assert delay_s.tolist() == [0, 0, 0, 2, 2]
    arrival_s, after, _ = draw_arrivals(Arrivals(kind="at_once"), 5, rng())
    assert arrival_s.tolist() == [0.0] * 5
    assert set(after.tolist()) == {AT_ARRIVAL}


def test_a_closed_loop_of_sessions_keeps_one_conversation_per_user() -> None:
    spec = WorkloadSpec(
        requests=60,
        arrivals=Arrivals(kind="closed", concurrency=4, think_s=3),
        sessions=Sessions(turns=QuantileLength(levels=(0, 1), tokens=(1, 6)), think_s=5),
    )
    table = synthesize(spec)
    assert int((table.after == AT_ARRIVAL).sum()) == 4
    followers = table.after[table.after >= 0]
    assert len(set(followers.tolist())) == len(followers)  # every request is followed by at most one
    assert np.all(table.arrival_s[followers] <= table.arrival_s[table.after >= 0])


def test_weibull_shape_of_known_distributions() -> None:
    assert weibull_shape(1.0) == pytest.approx(1.0)
    assert weibull_shape(math.sqrt(4 / math.pi - 1)) == pytest.approx(2.0)  # Rayleigh


def test_lengths_follow_their_quantiles() -> None:
    level = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    lognormal = LognormalLength(median_tokens=100, p90_tokens=400, max_tokens=5000)
    assert at_quantile(lognormal, level).tolist() == [1, 25, 100, 400, 5000]
    assert at_quantile(FixedLength(tokens=9), level).tolist() == [9] * 5
    assert at_quantile(QuantileLength(levels=(0, 0.5, 1), tokens=(2, 10, 1000)), level).tolist() == [
        2,
        4,
        10,
        802,
        1000,
    ]


def test_mean_of_a_length_is_the_mean_of_its_draws() -> None:
    for length in (
        LognormalLength(median_tokens=300, p90_tokens=900),
        QuantileLength(levels=(0, 0.5, 1), tokens=(2, 10, 1000)),
    ):
        drawn, _ = draw_lengths(length, length, 0.0, 200_000, rng())
        error = drawn.std() / math.sqrt(len(drawn))
        assert abs(drawn.mean() - mean_tokens(length)) < 5 * error


@pytest.mark.parametrize("correlation", [-1.0, -0.5, 0.3, 1.0])
def test_copula_gives_the_rank_correlation_asked_for(correlation: float) -> None:
    length = LognormalLength(median_tokens=3000, p90_tokens=9000)
    prompt, output = draw_lengths(length, length, correlation, 50_000, rng())
    assert rank_correlation(prompt, output) == pytest.approx(correlation, abs=0.02)
    assert np.median(output) == pytest.approx(3000, rel=0.03)


def test_wrong_lengths_are_refused() -> None:
    for wrong in (
        {"kind": "lognormal", "median_tokens": 100, "p90_tokens": 50},
        {"kind": "quantiles", "levels": [0, 0.5], "tokens": [1, 2]},
        {"kind": "quantiles", "levels": [0, 1], "tokens": [0, 2]},
        {"kind": "quantiles", "levels": [0, 1], "tokens": [1, math.nan]},
    ):
        with pytest.raises(ValidationError):
            WorkloadSpec(prompt=wrong)  # type: ignore[arg-type]


def test_sessions_share_history_that_a_cache_finds() -> None:
    spec = WorkloadSpec(
        requests=10,
        arrivals=Arrivals(kind="uniform", rate_per_s=1),
        prompt=FixedLength(tokens=100),
        output=FixedLength(tokens=20),
        sessions=Sessions(turns=FixedLength(tokens=5), think_s=3),
        shared_prefix_tokens=1000,
        shared_prefix_groups=1,
    )
    table = synthesize(spec)
    assert sorted(table.prompt_tokens.tolist()) == sorted([1100, 1220, 1340, 1460, 1580] * 2)
    # seen before: the system prompt by the second session, and every turn's history
    seen = 1000 + 2 * (1120 + 1240 + 1360 + 1480)
    assert summarise(table).prefix_share == pytest.approx(seen / table.prompt_tokens.sum())


def test_session_rate_is_that_of_requests() -> None:
    spec = WorkloadSpec(
        requests=20_000, arrivals=Arrivals(rate_per_s=8), sessions=Sessions(turns=FixedLength(tokens=4), think_s=1)
    )
    table = synthesize(spec)
    assert int((table.after == AT_ARRIVAL).sum()) == 5000
    assert table.rate_per_s == pytest.approx(8, rel=0.05)
    later = table.after >= 0
    assert table.delay_s[later].mean() == pytest.approx(1.0, rel=0.05)


def test_seeds_decide_and_parts_are_drawn_apart() -> None:
    spec = WorkloadSpec(requests=50, prompt=LognormalLength(median_tokens=100, p90_tokens=400))
    one, same = synthesize(spec), synthesize(spec)
    other = synthesize(spec.model_copy(update={"seed": 1}))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s, other.arrival_s)
    uniform = synthesize(spec.model_copy(update={"arrivals": Arrivals(kind="uniform")}))
    assert np.array_equal(one.prompt_tokens, uniform.prompt_tokens)


def test_dispersion_of_even_and_clumped_arrivals() -> None:
    assert dispersion(np.arange(1000) / 10.0, 1.0) < 0.1
    assert dispersion(np.repeat(np.arange(100.0), 10), 1.0) < 0.1
    assert dispersion(np.repeat(np.arange(0, 200, 2.0), 10), 1.0) == pytest.approx(5.0, rel=0.05)
    assert math.isnan(dispersion(np.arange(5.0), 1.0))


def test_load_of_spec_files_windows_scales_and_clips(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},{100 + i},50\n" for i in range(20)))
    spec = tmp_path / "w.yaml"
    spec.write_text(f"trace: {trace}\nstart_s: 5\nend_s: 15\nrate_scale: 2\nmax_context_tokens: 160\n")
    loaded = load_workload(str(spec))
    assert loaded.name == "w"
    assert loaded.trace_format == "named_csv"
    assert loaded.table.arrival_s.tolist() == [i / 2 for i in range(10)]
    assert loaded.table.prompt_tokens.max() == 110
    assert "10 of 20 requests lie in the window" in loaded.notes[0]
    assert "4 of 10 requests were clipped to 160 tokens" in loaded.notes[1]
    assert load_workload(str(trace)).name == "t.csv"
    spec.write_text(f"trace: {trace}\nstart_s: 500\n")
    with pytest.raises(TraceError, match="no request lies between"):
        load_workload(spec)
    spec.write_text(f"trace: {trace}\narrivals: {{kind: at_once}}\n")
    assert load_workload(spec).table.arrival_s.tolist() == [0.0] * 20


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'azure-conversation'"):
        load_workload("azure-conversatoin")
    with pytest.raises(TraceError, match="No such file"):
        load_workload("nosuch.csv")
    assert load_workload("Azure-Conv").table.rate_per_s > 0
