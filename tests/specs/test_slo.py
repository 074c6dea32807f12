"""Targets as text: what is read, what is refused and how."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import SpecError
from windtunnel.specs.slo import METRICS, STATISTICS, SloSpec, Target, parse_slo

TARGETS = st.builds(
    Target,
    metric=st.sampled_from(METRICS),
    statistic=st.sampled_from(STATISTICS),
    limit_s=st.floats(1e-6, 1e5, allow_nan=False),
)


@given(st.lists(TARGETS, min_size=1, max_size=4), st.sampled_from(["s", "ms"]), st.sampled_from(["<", " <= ", "<="]))
def test_what_is_written_is_read(targets: list[Target], unit: str, sign: str) -> None:
    factor = {"s": 1.0, "ms": 1e3}[unit]
    text = ", ".join(f"{t.metric}_{t.statistic}{sign}{t.limit_s * factor!r}{unit}" for t in targets)
    found = parse_slo(text)
    assert [t.key for t in found.targets] == [t.key for t in targets]
    assert [t.limit_s for t in found.targets] == pytest.approx([t.limit_s for t in targets])
    assert found.attainment == 0.0


@given(st.integers(1, 100))
def test_attainment_is_read_as_share_or_percent(percent: int) -> None:
    assert parse_slo(f"ttft<2s,attainment>={percent}%").attainment == pytest.approx(percent / 100)
    assert parse_slo(f"ttft<2s,attainment>={percent / 100!r}").attainment == pytest.approx(percent / 100)


def test_a_metric_alone_means_its_99th_percentile() -> None:
    assert parse_slo("TTFT<2s").targets[0].key == "ttft_p99"


def test_text_reads_back_in_words() -> None:
    assert str(parse_slo("ttft_p99<2s,tpot_p50<50ms")) == "TTFT p99 < 2 s, TPOT p50 < 50 ms"
    assert str(parse_slo("ttft<2s,attainment>=90%")) == "TTFT p99 < 2 s for 90% of requests"
    assert str(SloSpec()) == "no targets"


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_slo("tfft_p99<2s,tpot_p42<50ms,e2e_p99<soon,ttft_p99<-1s,nonsense,attainment>=120%")
    messages = [problem.message for problem in caught.value.problems]
    assert len(messages) == 6
    assert messages[0] == "unknown metric"
    assert messages[1] == "unknown statistic"
    assert messages[4] == "a target reads METRIC_STATISTIC<LIMIT"
    assert messages[5] == "attainment is out of range"
    assert caught.value.problems[0].nearest == "ttft"
    assert all(problem.file == "--slo" for problem in caught.value.problems)


def test_two_mistakes_in_one_target_are_both_reported() -> None:
    with pytest.raises(SpecError) as caught:
        parse_slo("tpott_p98<0s")
    assert [p.message for p in caught.value.problems] == [
        "unknown metric",
        "unknown statistic",
        "a limit must be positive",
    ]


@pytest.mark.parametrize("text", ["", " , ", "attainment>=90%"])
def test_no_target_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="no target given"):
        parse_slo(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(SpecError):  # any other exception would be a mistake
        assert parse_slo(text).targets
