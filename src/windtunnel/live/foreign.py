"""Measurements made with other load generators, read from the files they write per request.

Understood: `vllm bench serve --save-result --save-detailed` (vLLM 0.6 to 0.32), GuideLLM `benchmarks.json`,
AIPerf `profile_export.jsonl`, GenAI-Perf `profile_export.json` and inference-perf
`per_request_lifecycle_metrics.json`. These tools count latency from sending; where they also say when a
request was to be sent, that time is used as due.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from windtunnel.errors import Problem, TraceError
from windtunnel.live.measurement import OK, Measurement, measurement

Record = dict[str, Any]
NS = 1e-9


def read_measurement(path: Path | str) -> Measurement:
    """A measurement from a file of another load generator.

    Raises:
        TraceError: the file is of no known kind, or does not hold single requests.
    """
    source = Path(path)
    data = _parsed(source)
    for name, (recognise, records) in _KINDS.items():
        if recognise(data):
            return _measurement(source, name, records, data)
    raise TraceError(Problem("is no known result of a load generator", str(source), allowed=", ".join(_KINDS)))


def _measurement(source: Path, name: str, records: Callable[[Any], list[Record]], data: Any) -> Measurement:
    try:
        found = records(data)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        problem = Problem(
            f"looks like a result of {name} but cannot be read: {type(error).__name__} {error}", str(source)
        )
        raise TraceError(problem) from None
    if not found:
        raise TraceError(Problem(f"this result of {name} holds no single requests", str(source)))
    start_s = min(record["due_s"] for record in found)
    for row, record in enumerate(sorted(found, key=lambda record: float(record["due_s"]))):
        record["row"] = row
        for column in ("due_s", "sent_s", "first_token_s", "finish_s"):
            record[column] = None if record[column] is None else record[column] - start_s
        record["token_s"] = [moment - start_s for moment in record["token_s"]]
    return measurement(found, {"tool": name, "source": source.name, "notes": [f"measured with {name}"]})


def _parsed(source: Path) -> Any:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(Problem(f"cannot be read: {error}", str(source))) from None
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise TraceError(Problem(f"is neither JSON nor JSON lines: {error}", str(source))) from None


def _record(
    due_s: float, sent_s: float, tokens_s: Sequence[float], prompt: int, output: int, failure: str = ""
) -> Record:
    """One request from absolute times; an answer without tokens counts as failed."""
    status = failure or (OK if tokens_s else "no tokens")
    good = status == OK
    return {
        "due_s": due_s,
        "sent_s": sent_s,
        "first_token_s": tokens_s[0] if tokens_s else None,
        "finish_s": tokens_s[-1] if good else None,
        "prompt_tokens": max(prompt, 0),
        "output_tokens": max(output, 0),
        "prompt_reported": prompt,
        "output_received": output if good else len(tokens_s),
        "attempts": 1,
        "status": status,
        "token_s": list(tokens_s),
    }


def _vllm(data: Mapping[str, Any]) -> list[Record]:
    """`ttfts` and `itls` in seconds, `start_times` on one clock (absent in old versions: unknown arrivals)."""
    if "itls" not in data or "start_times" not in data:
        raise ValueError("made without --save-detailed, or by a version that keeps no start times")
    columns = zip(
        data["start_times"], data["ttfts"], data["itls"], data["input_lens"], data["output_lens"], data["errors"],
        strict=True,
    )  # fmt: skip
    found = []
    for start_s, ttft_s, gaps_s, prompt, output, error in columns:
        tokens_s = list(itertools.accumulate([start_s + ttft_s, *gaps_s])) if not error and ttft_s > 0 else []
        found.append(_record(start_s, start_s, tokens_s, int(prompt), int(output), _failure(error)))
    return found


def _guidellm(data: Mapping[str, Any]) -> list[Record]:
    """Wall-clock seconds; only the first and last token of a request are kept there."""
    found = []
    for benchmark in data["benchmarks"]:
        groups = benchmark["requests"]
        for kind in ("successful", "errored", "incomplete"):
            for one in groups.get(kind) or ():
                timings = one["info"]["timings"]
                start_s = timings.get("request_start") or one.get("request_start_time")
                if start_s is None:
                    continue  # never sent
                due_s = timings.get("targeted_start") or start_s
                ends = (timings.get("first_token_iteration"), timings.get("last_token_iteration"))
                tokens_s = [moment for moment in ends if moment is not None]
                failure = "" if kind == "successful" else kind
                counts = (int(one.get("prompt_tokens") or -1), int(one.get("output_tokens") or 0))
                found.append(_record(min(due_s, start_s), start_s, tokens_s, *counts, failure))
    return found


def _aiperf(data: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Nanoseconds of the wall clock in `metadata`, metrics with a unit each."""
    found = []
    for one in data:
        about, metrics = one["metadata"], one.get("metrics") or {}
        if about.get("benchmark_phase", "profiling") != "profiling":
            continue  # warm-up
        start_s = about["request_start_ns"] * NS
        due_s = (about.get("credit_issued_ns") or about["request_start_ns"]) * NS
        tokens_s: list[float] = []
        if "time_to_first_token" in metrics:
            gaps_s = _in_seconds(metrics["inter_chunk_latency"]) if "inter_chunk_latency" in metrics else []
            tokens_s = list(itertools.accumulate([start_s + _in_seconds(metrics["time_to_first_token"])[0], *gaps_s]))
        prompt = int(metrics.get("input_sequence_length", {}).get("value", -1))
        output = int(metrics.get("output_sequence_length", {}).get("value", len(tokens_s)))
        error = one.get("error")
        failure = "" if not error else f"http {error.get('code')}" if error.get("code") else str(error.get("type"))
        found.append(_record(min(due_s, start_s), start_s, tokens_s, prompt, output, failure))
    return found


def _in_seconds(metric: Mapping[str, Any]) -> list[float]:
    factor = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}[metric["unit"]]
    values = metric["value"]
    return [value * factor for value in (values if isinstance(values, list) else [values])]


def _genai_perf(data: Mapping[str, Any]) -> list[Record]:
    """Nanoseconds; a response without content (the last one, with totals) is no token."""
    found = []
    for experiment in data["experiments"]:
        for one in experiment["requests"]:
            outputs = one.get("response_outputs") or [{}] * len(one["response_timestamps"])
            pairs = zip(one["response_timestamps"], outputs, strict=False)
            tokens_s = [moment * NS for moment, output in pairs if _carries_text(output)]
            start_s = one["timestamp"] * NS
            found.append(_record(start_s, start_s, tokens_s, -1, len(tokens_s)))
    return found


def _carries_text(output: Mapping[str, Any]) -> bool:
    said = str(output.get("response", "")) if output else "unknown"
    return bool(said.strip()) and "[DONE]" not in said and '"choices":[]' not in said.replace(" ", "")


def _inference_perf(data: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Seconds of one clock; token times are in `info`, since 2026 in `info.response_metrics`."""
    found = []
    for one in data:
        info = one.get("info") or {}
        answered = info.get("response_metrics") or info
        tokens_s = answered.get("output_token_times") or []
        error = one.get("error")
        failure = str(error.get("error_type", "error")) if error else ""
        counts = (int(info.get("input_tokens", -1)), int(answered.get("output_tokens") or len(tokens_s)))
        found.append(_record(one["start_time"], one["start_time"], tokens_s, *counts, failure))
    return found


def _failure(error: Any) -> str:
    """The last line of an error message, as a short status."""
    lines = str(error or "").strip().splitlines()
    return lines[-1][:80] if lines else ""


def _rows_with(*names: str) -> Callable[[Any], bool]:
    def recognise(data: Any) -> bool:
        return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and all(n in data[0] for n in names)

    return recognise


def _mapping_with(*names: str) -> Callable[[Any], bool]:
    return lambda data: isinstance(data, dict) and all(name in data for name in names)


_KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], list[Record]]]] = {
    "vllm bench serve": (_mapping_with("request_throughput", "completed"), _vllm),
    "GuideLLM": (_mapping_with("benchmarks"), _guidellm),
    "GenAI-Perf": (_mapping_with("experiments"), _genai_perf),
    "AIPerf": (
        lambda data: _rows_with("metadata")([data] if isinstance(data, dict) else data),
        lambda data: _aiperf([data] if isinstance(data, dict) else data),
    ),
    "inference-perf": (_rows_with("start_time", "end_time"), _inference_perf),
}
