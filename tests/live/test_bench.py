from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from live.stub import Behaviour, running
from windtunnel.errors import SpecError, TraceError
from windtunnel.live.bench import Bench, bench
from windtunnel.live.endpoint import Endpoint
from windtunnel.live.load import LoadSettings
from windtunnel.live.measurement import Measurement, load
from windtunnel.live.statistics import gaps_s, summary
from windtunnel.workload.table import AFTER_ANY, RequestTable, request_table


def burst(n: int, output: int = 4, prompt: int = 20) -> RequestTable:
    return request_table(np.zeros(n), np.full(n, prompt), np.full(n, output))


def measure(url: str, table: RequestTable, folder: Path | None = None, **settings: Any) -> Measurement:
    kind = settings.pop("kind", "completions")
    return bench(Bench(table, Endpoint(url, kind), LoadSettings(**settings), folder, warmup=0))


def notes(measured: Measurement) -> str:
    return "\n".join(measured.meta["notes"])


def test_every_request_is_sent_when_due_and_every_token_timed() -> None:
    due_s = np.arange(20) * 0.02
    table = request_table(due_s, np.full(20, 33), np.full(20, 5))
    with running(Behaviour(gap_s=0.01)) as stub:
        measured = measure(stub.url, table)
        asked = [body for body in stub.bodies if body["max_tokens"] == 5]
    assert measured.ok.all()
    np.testing.assert_allclose(measured.due_s, due_s, atol=1e-5)
    assert np.all(measured.lag_s >= -1e-4)
    assert [len(body["prompt"]) for body in asked] == [33] * 20
    assert all(body["ignore_eos"] and body["stream"] and body["model"] == "tiny" for body in asked)
    assert np.all(np.diff(measured.token_offset) == 5)
    assert np.all(measured.ttft_s >= 0.01)
    assert len(gaps_s(measured)) == 20 * 4
    assert np.all(measured.tpot_s > 0.009)
    assert np.all(measured.prompt_reported == 33)


def test_latency_counts_from_due_also_when_the_server_stalls() -> None:
    """A server that answers one after the other: with coordinated omission every request would look fast."""
    with running(Behaviour(gap_s=0.05)) as stub:
        table = request_table([0.0, 0.0, 0.0], [4] * 3, [2] * 3, after=[-1, 0, 1])
        measured = measure(stub.url, table)
    # Sessions: each is due when its predecessor has finished.
    assert np.all(np.diff(measured.due_s) >= 0.1)
    assert np.all(measured.due_s[1:] >= measured.finish_s[:-1])


def test_closed_loop_keeps_so_many_in_flight() -> None:
    table = request_table(np.zeros(9), [4] * 9, [3] * 9, after=[-1] * 3 + [AFTER_ANY] * 6)
    with running(Behaviour(gap_s=0.02)) as stub:
        measured = measure(stub.url, table)
    assert measured.ok.all()
    starts, ends = measured.sent_s[None, :], measured.finish_s[None, :]
    in_flight = ((starts <= measured.sent_s[:, None]) & (ends > measured.sent_s[:, None])).sum(axis=1)
    assert in_flight.max() == 3


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (Behaviour(status=500), "http 500"),
        (Behaviour(status=429), "http 429"),
        (Behaviour(close_after=2), "closed early"),
        (Behaviour(close_after=0), "closed early"),
        (Behaviour(broken=True), "broken stream"),
        (Behaviour(error=True), "error in stream"),
        (Behaviour(tokens=0), "no tokens"),
        (Behaviour(tokens=9), "more tokens than asked"),
    ],
)
def test_failures_are_recorded_and_the_others_kept(behaviour: Behaviour, status: str) -> None:
    def answer(index: int, _asked: dict[str, Any]) -> Behaviour:
        return behaviour if index in (2, 4) else Behaviour()

    with running(answer) as stub:
        measured = measure(stub.url, burst(6))
    assert sorted(measured.status) == sorted(["ok"] * 4 + [status] * 2)
    assert status in notes(measured)
    found = summary(measured)
    assert found["failed"] == {status: 2}
    assert math.isfinite(found["latency_s"]["e2e"]["p99"])
    assert np.isnan(measured.e2e_s[~measured.ok]).all()


def test_a_refused_request_is_tried_again_and_its_latency_counts_from_due() -> None:
    def answer(index: int, _asked: dict[str, Any]) -> Behaviour:
        return Behaviour(status=429, headers="Retry-After: 0.2\r\n") if index == 1 else Behaviour()

    with running(answer) as stub:
        measured = measure(stub.url, burst(1), retries=2)
    assert measured.status == ("ok",)
    assert measured.attempts.tolist() == [2]
    assert measured.ttft_s[0] >= 0.2
    assert "more than once" in notes(measured)


def test_a_slow_stream_times_out() -> None:
    def answer(index: int, _asked: dict[str, Any]) -> Behaviour:
        return Behaviour(gap_s=5.0) if index == 1 else Behaviour()

    with running(answer) as stub:
        measured = measure(stub.url, burst(2), timeout_s=0.3)
    assert sorted(measured.status) == ["ok", "timeout"]


def test_chunks_cut_by_the_network_and_chunks_of_several_tokens() -> None:
    with running(Behaviour(pieces=True, per_chunk=3)) as stub:
        measured = measure(stub.url, burst(2, output=8))
    assert measured.ok.all()
    assert measured.output_received.tolist() == [8, 8]
    assert np.diff(measured.token_offset).tolist() == [8, 8]


def test_a_server_without_usage_is_counted_by_chunks() -> None:
    with running(Behaviour(usage=False)) as stub:
        measured = measure(stub.url, burst(2))
    assert measured.output_received.tolist() == [4, 4]
    assert measured.prompt_reported.tolist() == [-1, -1]


def test_answers_shorter_than_asked_are_noted() -> None:
    with running(lambda i, _asked: Behaviour(tokens=None if i == 0 else 2)) as stub:
        measured = measure(stub.url, burst(3))
    assert measured.ok.all()
    assert "3 answers are shorter than asked for" in notes(measured)


def test_extras_that_the_server_refuses_are_dropped() -> None:
    with running(refuses=("ignore_eos", "min_tokens", "stream_options")) as stub:
        measured = measure(stub.url, burst(2))
    assert measured.ok.all()
    assert "does not accept" in notes(measured)
    assert "ignore_eos" in notes(measured)
    assert not {"ignore_eos", "min_tokens", "stream_options"} & set(stub.bodies[-1])


def test_chat_measures_its_template_and_meets_the_length() -> None:
    with running() as stub:
        measured = measure(stub.url, burst(2, prompt=50), kind="chat")
    assert measured.ok.all()
    assert measured.prompt_reported.tolist() == [50, 50]


def test_gauges_of_the_engine_are_kept(tmp_path: Path) -> None:
    page = '# HELP x\nvllm:num_requests_running{engine="0"} 3.0\nvllm:kv_cache_usage_perc 0.25\n'
    with running(gauges=page) as stub:
        measure(stub.url, burst(2), tmp_path / "out")
    measured = load(tmp_path / "out")
    assert set(measured.engine["running"]) == {3.0}
    assert set(measured.engine["kv_share"]) == {0.25}
    assert len(measured.engine["time_s"]) == len(measured.engine["running"])


def test_a_measurement_survives_its_folder(tmp_path: Path) -> None:
    with running() as stub:
        measured = measure(stub.url, burst(5), tmp_path / "out")
    again = load(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["meta.json", "requests.parquet"]
    for name in Measurement.__dataclass_fields__:
        if name not in ("meta", "engine"):
            np.testing.assert_array_equal(getattr(again, name), getattr(measured, name))


def test_a_folder_without_a_measurement(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no measurement"):
        load(tmp_path)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_wrong_addresses_and_names() -> None:
    with pytest.raises(SpecError, match="nobody answers"):
        measure(f"http://127.0.0.1:{closed_port()}", burst(1))
    with running(models=("llama", "qwen")) as stub:
        with pytest.raises(SpecError, match=r"several models.*llama, qwen"):
            measure(stub.url, burst(1))
        with pytest.raises(SpecError, match="did you mean 'llama'"):
            bench(Bench(burst(1), Endpoint(stub.url, model="lama")))


def test_a_server_that_dies_half_way_keeps_what_came() -> None:
    def answer(index: int, _asked: dict[str, Any]) -> Behaviour:
        return Behaviour(gap_s=0.02) if index < 5 else Behaviour(close_after=0)

    with running(answer) as stub:
        table = request_table(np.arange(10) * 0.2, np.full(10, 4), np.full(10, 2))
        measured = measure(stub.url, table)
    assert 2 <= measured.ok.sum() <= 8
    assert "closed early" in measured.status


def test_a_wall_clock_that_jumps_is_noted_and_changes_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is set forward by an hour in the middle of a run."""
    real, started = time.time, time.monotonic()

    def jumping() -> float:
        return real() + (3600.0 if time.monotonic() - started > 0.6 else 0.0)

    with running(Behaviour(gap_s=0.01)) as stub:
        table = request_table(np.arange(10) * 0.15, np.full(10, 4), np.full(10, 3))
        monkeypatch.setattr(time, "time", jumping)
        measured = measure(stub.url, table)
    assert measured.ok.all()
    assert "the wall clock jumped by +3600" in notes(measured)
    assert measured.e2e_s.max() < 2.0
    np.testing.assert_allclose(measured.due_s, table.arrival_s, atol=1e-5)


def test_a_server_that_is_gone_half_way_refuses_the_rest() -> None:
    """The process ends when the sixth request comes: its stream breaks off, later requests find nobody."""

    def answer(index: int, _asked: dict[str, Any]) -> Behaviour:
        if index == 5:
            stub.stop()
        return Behaviour(gap_s=0.002)

    with running(answer) as stub:
        table = request_table(np.arange(10) * 0.2, np.full(10, 4), np.full(10, 20))
        measured = measure(stub.url, table)
    assert 1 <= measured.ok.sum() <= 6
    assert "refused" in measured.status
    assert "requests failed: refused" in notes(measured)


def test_killed_or_interrupted_runs_keep_their_results(tmp_path: Path) -> None:
    with running(Behaviour(gap_s=0.01)) as stub:
        for kill, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
            out = tmp_path / kill.name
            command = [sys.executable, "-m", "windtunnel.cli.main"]
            command = [str(Path(sys.executable).with_name("windtunnel"))]
            command += ["bench", "--url", stub.url, "--out", str(out), "--limit", "400", "--rate", "40"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
            deadline = time.monotonic() + 60
            journal = out / "journal.jsonl"
            while time.monotonic() < deadline and not (journal.is_file() and journal.read_bytes().count(b"\n") >= 5):
                time.sleep(0.05)
            process.send_signal(kill)
            process.communicate(timeout=60)
            assert process.returncode == code
            lines = journal.read_text().splitlines() if journal.is_file() else []
            measured = load(out)
            assert len(measured) >= max(5, sum(1 for line in lines if line.endswith("}")))
            assert measured.ok.sum() >= 5
            note = "did not end" if kill == signal.SIGKILL else "interrupted after"
            assert note in notes(measured)


def test_the_journal_may_end_in_half_a_line(tmp_path: Path) -> None:
    record = {
        "row": 0, "due_s": 0.0, "sent_s": 0.0, "first_token_s": 0.1, "finish_s": 0.2, "prompt_tokens": 3,
        "output_tokens": 2, "prompt_reported": 3, "output_received": 2, "attempts": 1, "status": "ok",
        "token_s": [0.1, 0.2],
    }  # fmt: skip
    text = json.dumps(record)
    (tmp_path / "journal.jsonl").write_text(text + "\n" + text[:30])
    assert len(load(tmp_path)) == 1
