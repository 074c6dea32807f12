"""Readers: every format is recognised by content and gives the requests that stand in the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from helpers import shared_file
from windtunnel.errors import TraceError
from windtunnel.workload.read import open_trace, read_trace
from windtunnel.workload.summary import prefix_share


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(folder: Path, *objects: object, name: str = "t.jsonl") -> Path:
    return write(folder, name, "".join(json.dumps(o) + "\n" for o in objects))


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    "stamps",
    [
        ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951690"),
        ("2024-05-10 00:00:46.680590+00:00", "2024-05-10 00:00:50.995169+00:00"),
        ("2024-05-10T00:00:46.680590Z", "2024-05-10T00:00:50.995169Z"),
        ("2024-05-10 02:00:46.680590+02:00", "2024-05-10 00:00:50.995169+00:00"),
    ],
)
def test_azure_whatever_the_zone(tmp_path: Path, stamps: tuple[str, str]) -> None:
    path = write(tmp_path, "no_extension", f"{AZURE}{stamps[0]},374,44\n{stamps[1]},396,109\n")
    trace = open_trace(path)
    assert trace.format == "azure"
    np.testing.assert_allclose(trace.table.arrival_s, [0.0, 4.314579], atol=1e-9)
    assert trace.table.prompt_tokens.tolist() == [374, 396]
    assert trace.table.output_tokens.tolist() == [44, 109]


def test_azure_rows_that_generated_nothing_are_left_out_with_a_note(tmp_path: Path) -> None:
    path = write(
        tmp_path, "a.csv", f"{AZURE}2023-11-16 18:15:46,3,4\n2023-11-16 18:15:47,3,0\n2023-11-16 18:15:48,3,5\n"
    )
    trace = open_trace(path)
    assert trace.table.output_tokens.tolist() == [4, 5]
    assert "1 requests" in trace.notes[0]


def test_byte_order_mark_crlf_blank_lines_and_gzip(tmp_path: Path) -> None:
    text = f"\ufeff{AZURE}2023-11-16 18:15:46,3,4\n\n2023-11-16 18:15:47,5,6\n".replace("\n", "\r\n")
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(text.encode("utf-8")))
    assert read_trace(path).prompt_tokens.tolist() == [3, 5]


def test_mooncake_blocks_become_segments(tmp_path: Path) -> None:
    path = rows(
        tmp_path,
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 1500, "input_length": 1024, "output_length": 7, "hash_ids": [0, 9]},
    )
    table = read_trace(path)
    assert table.arrival_s.tolist() == [0.0, 1.5]
    assert table.segment_offset.tolist() == [0, 3, 5]
    assert table.segment_tokens.tolist() == [512, 512, 76, 512, 512]
    assert table.segment_id[0] == table.segment_id[3]
    assert table.segment_id[1] != table.segment_id[4]
    assert prefix_share(table) == pytest.approx(512 / 2124)


def test_bailian_counts_seconds_and_blocks_of_16(tmp_path: Path) -> None:
    path = rows(
        tmp_path,
        {"chat_id": 1, "timestamp": 61.1, "input_length": 33, "output_length": 5, "hash_ids": [4, 5, 6]},
        {"chat_id": 2, "timestamp": 62.6, "input_length": 16, "output_length": 5, "hash_ids": [4]},
    )
    table = read_trace(path)
    np.testing.assert_allclose(table.arrival_s, [61.1, 62.6])
    assert table.segment_tokens.tolist() == [16, 16, 1, 16]


def test_aiperf_sessions_grow_and_wait(tmp_path: Path) -> None:
    path = rows(
        tmp_path,
        {"session_id": "a", "timestamp": 0, "input_length": 100, "output_length": 10},
        {"session_id": "b", "timestamp": 500, "input_length": 40, "output_length": 20},
        {"session_id": "a", "delay": 2000, "input_length": 50, "output_length": 10},
    )
    trace = open_trace(path)
    assert trace.table.prompt_tokens.tolist() == [100, 40, 160]
    assert trace.table.after.tolist() == [-1, -1, 0]
    assert trace.table.delay_s.tolist() == [0.0, 0.0, 2.0]
    assert trace.table.output_id[0] in trace.table.segment_id[trace.table.segment_offset[2] :]
    assert trace.notes


def test_burstgpt_leaves_out_failures_and_numbers_models(tmp_path: Path) -> None:
    text = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    text += "5,s,1,ChatGPT,472,18,490,Conversation log\n45,,1,GPT-4,1087,0,1087,API log\n"
    text += "45,,1,GPT-4,10,20,30,API log\n99,s,1,ChatGPT,500,30,530,Conversation log\n"
    trace = open_trace(write(tmp_path, "b.csv", text))
    assert trace.format == "burstgpt"
    assert trace.table.arrival_s.tolist() == [5.0, 45.0, 99.0]
    assert trace.table.tenant.tolist() == [0, 1, 0]
    assert trace.table.after.tolist() == [-1, -1, 0]
    assert "1 failed" in trace.notes[0]


@pytest.mark.parametrize("lines", [False, True])
def test_sharegpt_estimates_lengths_and_says_so(tmp_path: Path, lines: bool) -> None:
    talk = [("human", "x" * 400), ("gpt", "y" * 80), ("human", "z" * 40), ("gpt", "w" * 40)]
    records = [
        {"id": "1", "conversations": [{"from": who, "value": text} for who, text in talk]},
        {"id": "2", "conversations": [{"from": "gpt", "value": "no question"}]},
    ]
    path = rows(tmp_path, *records) if lines else write(tmp_path, "s.json", json.dumps(records, indent=1))
    trace = open_trace(path)
    assert trace.format == "sharegpt"
    assert trace.table.prompt_tokens.tolist() == [100, 130]
    assert trace.table.output_tokens.tolist() == [20, 10]
    assert trace.table.after.tolist() == [-1, 0]
    assert "4 characters per token" in trace.notes[0]
    assert "1 records" in trace.notes[2]


def test_vllm_custom_data_set(tmp_path: Path) -> None:
    trace = open_trace(
        rows(tmp_path, {"prompt": "a" * 40, "output_tokens": 7}, {"prompt": "bb", "completion": "c" * 8})
    )
    assert trace.format == "prompts"
    assert trace.table.prompt_tokens.tolist() == [10, 1]
    assert trace.table.output_tokens.tolist() == [7, 2]


def test_token_ids_share_whole_blocks(tmp_path: Path) -> None:
    row = {"input_toks": 20, "output_toks": 3, "arrival_time_ns": 0}
    path = rows(
        tmp_path,
        row | {"input_tok_ids": list(range(20))},
        row | {"input_tok_ids": [*range(16), 99, 98], "arrival_time_ns": 2_000_000_000},
        row | {"input_tok_ids": [99, *range(1, 20)], "arrival_time_ns": 2_000_000_000},
    )
    table = read_trace(path)
    assert table.arrival_s.tolist() == [0.0, 2.0, 2.0]
    assert prefix_share(table) == pytest.approx(16 / 58)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_named_columns(tmp_path: Path, kind: str) -> None:
    import polars as pl

    frame = pl.DataFrame(
        {
            "Arrival_Time_ms": [0, 1500, 1500],
            "Input Tokens": [10, 20, 30],
            "completion_tokens": [1, 2, 3],
            "user": ["ann", "bob", "ann"],
            "session_id": ["x", None, "x"],
            "priority": [0, -1, 2],
        }
    )
    path = tmp_path / "trace"  # the content says what it is
    if kind == "parquet":
        frame.write_parquet(path)
    elif kind == "jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="," if kind == "csv" else "\t")
    trace = open_trace(path)
    assert trace.format == f"named_{'csv' if kind == 'tsv' else kind}"
    table = trace.table
    assert table.arrival_s.tolist() == [0.0, 1.5, 1.5]
    assert table.prompt_tokens.tolist() == [10, 20, 30]
    assert table.output_tokens.tolist() == [1, 2, 3]
    assert table.tenant.tolist() == [0, 1, 0]
    assert table.priority.tolist() == [0, -1, 2]
    assert table.after.tolist() == [-1, -1, 0]


def test_columns_can_be_named_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "t,n_in,n_out\n1.7e9,1,2\n1.7000000005e9,3,4\n")
    table = read_trace(path, columns={"arrival_s": "t", "prompt_tokens": "n_in", "output_tokens": "n_out"})
    np.testing.assert_allclose(table.arrival_s, [0.0, 0.5])
    with pytest.raises(TraceError, match=r"did you mean 'n_in'"):
        read_trace(path, columns={"arrival_s": "t", "prompt_tokens": "n_inn", "output_tokens": "n_out"})


def test_dates_in_parquet(tmp_path: Path) -> None:
    import datetime

    import polars as pl

    at = datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)
    later = at + datetime.timedelta(seconds=2.5)
    frame = pl.DataFrame({"timestamp": [at, later], "prompt_tokens": [1, 2], "output_tokens": [1, 2]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_trace(tmp_path / "t.parquet").arrival_s.tolist() == [0.0, 2.5]


def test_guidellm_lengths_without_times(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path, "g.csv", "prompt,prompt_tokens_count,output_tokens_count\nhello,5,6\n"))
    assert trace.table.prompt_tokens.tolist() == [5]
    assert "no times" in trace.notes[0]


def test_the_real_azure_trace() -> None:
    path = shared_file("data", "traces", "AzureLLMInferenceTrace_conv.csv")
    table = read_trace(path)
    assert len(table) == 19366
    assert int(table.prompt_tokens.sum()) == 22361870
    assert int(table.output_tokens.sum()) == 4088665
    assert table.duration_s == pytest.approx(3501.721937)


def test_the_real_mooncake_trace() -> None:
    table = read_trace(shared_file("data", "traces", "mooncake_conversation.jsonl"))
    assert len(table) == 12031
    assert 0.36 < prefix_share(table) < 0.39


@pytest.mark.slow
def test_a_million_rows(tmp_path: Path) -> None:
    line = "{:.6f},512,128\n"
    path = write(
        tmp_path, "big.csv", "arrival_s,prompt_tokens,output_tokens\n" + "".join(map(line.format, range(10**6)))
    )
    assert len(read_trace(path)) == 10**6
