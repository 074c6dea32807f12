"""Bad trace files: one clear error that says where, what was found, and what would do."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from windtunnel.errors import TraceError
from windtunnel.workload.read import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
CSV = "arrival_s,prompt_tokens,output_tokens\n"
MOON = '{"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": [0]}\n'


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(TraceError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    assert all(str(path) in str(problem) or options for problem in caught.value.problems)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n", ["line 1", "GeneratedTokens", "missing column"]),
        ("TIMESTAMP,ContextTokens,GeneratdTokens\n2023-11-16 18:15:46,3,4\n", ["did you mean 'GeneratdTokens'"]),
        (f"{AZURE}2023-11-16 18:15:46.68,nan,44\n", ["line 2", "ContextTokens", "'nan'", "finite"]),
        (f"{AZURE}2023-11-16 18:15:46.68,-5,44\n", ["line 2", "ContextTokens", "'-5'", "from 1"]),
        (f"{AZURE}2023-11-16 18:15:46.68,0,44\n", ["line 2", "ContextTokens", "below 1"]),
        (f"{AZURE}2023-11-16 18:15:46.68,4.5,44\n", ["line 2", "not a whole number"]),
        (f"{AZURE}2023-11-16 18:15:46.68,10000000000,44\n", ["line 2", "implausibly large", "10,000,000"]),
        (f"{AZURE}2023-11-16 18:15:46.68,1e400,44\n", ["line 2", "ContextTokens"]),
        (f"{AZURE}2023-11-16 18:15:46.68,many,44\n", ["line 2", "not a number", "'many'"]),
        (f"{AZURE}2023-11-16 18:15:46.68,,44\n", ["line 2", "ContextTokens", "not a number"]),
        (f"{AZURE}yesterday,3,44\n", ["line 2", "TIMESTAMP", "'yesterday'", "ISO 8601"]),
        (f"{AZURE}2023-11-16 18:15:46,3,44,9\n", ["line 2", "wrong number of fields", "got 4"]),
        (f"{AZURE}2023-11-16 18:15:46,3,0\n", ["no request generated a token"]),
        (
            f"{AZURE}2023-11-16 18:15:46,3,4\n2023-11-16 18:15:48,3,4\n2023-11-16 18:15:47,3,4\n",
            ["line 4", "TIMESTAMP", "earlier than the line above", "sort"],
        ),
        (AZURE, ["no requests"]),
        ("", ["empty"]),
        ("   \n\n", ["empty"]),
        (f"{CSV.replace('prompt_tokens', 'arrival_s')}0,1,2\n", ["names this column twice"]),
        (f"{CSV}inf,1,2\n", ["line 2", "arrival_s", "finite"]),
        (f"{CSV}-1,1,2\n", ["line 2", "arrival_s", "negative"]),
        (f"{CSV}5,1,2\n4,1,2\n", ["line 3", "earlier"]),
        ("arival_s,prompt_tokens,output_tokens\n0,1,2\n", ["did you mean 'arival_s'"]),
        ("just some words\n", ["missing column", "prompt_tokens", "output_tokens", "arrival_s"]),
        (MOON + '{"timestamp": 5, "input_le', ["line 2", "cut off"]),
        (MOON + '{"timestamp": 5, "input_le\n', ["line 2", "not valid JSON"]),
        (MOON + "[1, 2]\n", ["line 2", "not a JSON object"]),
        (MOON.replace("output_length", "outptu_length"), ["line 1", "output_length", "did you mean 'outptu_length'"]),
        (MOON.replace("10", "NaN"), ["line 1", "input_length", "finite"]),
        (MOON.replace("10", "null"), ["line 1", "input_length", "not a number"]),
        (MOON.replace("10", "1e10"), ["line 1", "input_length", "implausibly large"]),
        (MOON.replace("10", '"' + "9" * 5000 + '"'), ["line 1", "input_length"]),
        (MOON.replace("10", "9" * 400), ["line 1", "input_length"]),
        (MOON.replace("[0]", "[0, 1]"), ["line 1", "hash_ids", "got 2", "1, one per 512"]),
        (MOON.replace("[0]", '["a"]'), ["line 1", "hash_ids", "not a list of block ids"]),
        (MOON.replace(": 0,", ": 9,") + MOON, ["line 2", "timestamp", "earlier"]),
        (MOON.replace(": 0,", ": null,"), ["line 1", "timestamp"]),
        ('{"prompt": "", "output_tokens": 3}\n', ["line 1", "prompt"]),
        ('{"prompt": "x"}\n', ["line 1", "output_tokens", "missing key"]),
        ('{"input_tok_ids": [], "output_toks": 1, "arrival_time_ns": 0}\n', ["line 1", "input_tok_ids"]),
        ('[{"conversations": [', ["line 1", "not valid JSON"]),
        ("[]", ["no conversation"]),
        ("[3]", ["record 1 is not an object"]),
        ('[{"conversation": []}]', ["did you mean 'conversation'"]),
        ('{"a": 1}\n', ["missing column", "prompt_tokens"]),
        ("[" * 100_000, ["not valid JSON"]),
        ("{" + '"a":{' * 100_000, ["line 1"]),
        ("a,b\n" + "x" * 200_000 + ",1\n", ["missing column"]),
        (CSV + "x" * 200_000 + ",1,2\n", ["CSV"]),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(text, encoding="utf-8")
    message = refusal(path)
    for part in expected:
        assert part in message
    assert len(message) < 8000


def test_several_problems_are_told_together_and_many_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(CSV + "0,0,1\n1,2,-3\n", encoding="utf-8")
    assert refusal(path).count("\n") == 1
    path.write_text(CSV + "0,0,1\n" * 1000, encoding="utf-8")
    message = refusal(path)
    assert message.count("below 1") == 20
    assert "stopped after 20" in message


def test_line_numbers_hold_behind_blank_lines_and_in_later_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(CSV + "0,1,1\n\n" + "0,1,1\n" * 70_000 + "0,1,x\n", encoding="utf-8")
    assert "line 70004, column output_tokens" in refusal(path)
    path.write_text(CSV + "5,1,1\n" * 65_536 + "4,1,1\n", encoding="utf-8")
    assert "line 65538" in refusal(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nosuch.csv")
    assert "directory" in refusal(tmp_path)
    garbage = random.Random(1).randbytes(4096)
    for name, content in {
        "random.parquet": garbage,
        "random.csv": garbage,
        "zeros.csv": bytes(1000),
        "cut.parquet": b"PAR1" + garbage,
        "cut.csv.gz": gzip.compress(CSV.encode() * 1000)[:30],
        "latin.csv": CSV.encode() + "0,1,2 é\n".encode("latin-1"),
        "late.csv": CSV.encode() + b"0,1,2\n" * 20_000 + b"\xff\xfe",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert name in refusal(tmp_path / name)


def test_an_unknown_format_and_needless_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(AZURE + "2023-11-16 18:15:46,3,4\n", encoding="utf-8")
    assert "did you mean 'azure'" in refusal(path, format="azur")
    assert "fixes its columns" in refusal(path, format="azure", columns={"prompt_tokens": "ContextTokens"})
