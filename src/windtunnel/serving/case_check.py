"""Reads scheduler cases and says everything that is wrong with one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from windtunnel.errors import CaseError, Problem, nearest, shorten
from windtunnel.serving.case_spec import (
    OUTCOME_FIELDS,
    drafting_of,
    outcome_problems,
    spec_limit_problems,
    spec_problems,
)

_REQUIRED = {
    "block_size": int,
    "num_blocks": int,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "max_model_len": int,
}
_OPTIONAL = {
    "enable_chunked_prefill": bool,
    "enable_prefix_caching": bool,
    "policy": str,
    "long_prefill_token_threshold": int,
    "watermark": float,
    "async_scheduling": bool,
    "max_loras": int,
}
_COST = ("base", "per_token", "per_kv_token")
_REQUEST_REQUIRED = {"arrival": float, "prompt": int, "output": int}
_REQUEST_OPTIONAL = {"priority": int, "prefix": int, "prefix_len": int, "adapter": int}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SHOWN = 20
"""Most mistakes that are listed."""


def read_case(path: Path) -> dict[str, Any]:
    """The JSON object in a case file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError(Problem(f"cannot be read ({error.strerror})", file=str(path))) from None
    except UnicodeDecodeError:
        raise CaseError(Problem("is not a text file", file=str(path))) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise CaseError(Problem(f"is not valid JSON ({error.msg})", file=str(path), path=where)) from None
    except RecursionError:
        raise CaseError(Problem("is nested too deeply", file=str(path))) from None
    if not isinstance(data, dict):
        raise CaseError(Problem("must hold a JSON object", file=str(path), got=type(data).__name__))
    return data


def check_case(data: dict[str, Any], file: str) -> None:
    """Check a case against its format and against what the engine accepts.

    Raises:
        CaseError: with every mistake found.
    """
    problems: list[Problem] = []
    _check_keys(data, [*_REQUIRED, "cost", "requests"], [*_OPTIONAL, "spec"], "", file, problems)
    for name, kind in (_REQUIRED | _OPTIONAL).items():
        if name in data:
            _check_type(data[name], kind, name, file, problems)
    _check_cost(data.get("cost"), file, problems)
    problems += spec_problems(data.get("spec"), file)
    requests = data.get("requests")
    if isinstance(requests, list):
        for i, request in enumerate(requests):
            _check_request(request, i, file, problems)
    elif "requests" in data:
        problems.append(Problem("must be a list", file, "requests", shorten(requests)))
    if not problems:
        _check_limits(data, file, problems)
        problems += spec_limit_problems(data, file)
    if not problems:
        _check_fit(data, file, problems)
    if problems:
        rest = len(problems) - _SHOWN
        more = [Problem(f"and {rest} more", file)] if rest > 0 else []
        raise CaseError(problems[:_SHOWN] + more)


def _check_keys(
    data: dict[str, Any], required: list[str], optional: list[str], where: str, file: str, problems: list[Problem]
) -> None:
    for name in required:
        if name not in data:
            problems.append(Problem("is missing", file, f"{where}{name}"))
    for name in data:
        if name not in required and name not in optional:
            close = nearest(name, [*required, *optional])
            problems.append(Problem("is not a known field", file, f"{where}{name}", nearest=close))


def _check_type(value: Any, kind: type, path: str, file: str, problems: list[Problem]) -> bool:
    """A finite, non-negative value of this kind (priorities may be negative)."""
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not right:
        problems.append(Problem(f"must be {_WORDS[kind]}", file, path, shorten(value)))
        return False
    if kind in (int, float):
        if not math.isfinite(value) or abs(value) > 1e15:
            problems.append(Problem("must be a finite number below 1e15", file, path, shorten(value)))
            return False
        if value < 0 and not path.endswith("priority"):
            problems.append(Problem("must not be negative", file, path, shorten(value)))
            return False
    return True


def _check_cost(cost: Any, file: str, problems: list[Problem]) -> None:
    if cost is None:
        return
    if not isinstance(cost, dict):
        problems.append(Problem("must be an object", file, "cost", shorten(cost)))
        return
    _check_keys(cost, list(_COST), [], "cost.", file, problems)
    for name in _COST:
        if name in cost:
            _check_type(cost[name], float, f"cost.{name}", file, problems)


def _check_request(request: Any, i: int, file: str, problems: list[Problem]) -> None:
    where = f"requests[{i}]"
    if not isinstance(request, dict):
        problems.append(Problem("must be an object", file, where, shorten(request)))
        return
    optional = [*_REQUEST_OPTIONAL, *OUTCOME_FIELDS]
    _check_keys(request, list(_REQUEST_REQUIRED), optional, f"{where}.", file, problems)
    problems += outcome_problems(request, where, file)
    for name, kind in (_REQUEST_REQUIRED | _REQUEST_OPTIONAL).items():
        if name not in request or not _check_type(request[name], kind, f"{where}.{name}", file, problems):
            continue
        if name in ("prompt", "output") and request[name] < 1:
            problems.append(Problem("must be at least 1", file, f"{where}.{name}", shorten(request[name])))


def _check_limits(data: dict[str, Any], file: str, problems: list[Problem]) -> None:
    """What the engine refuses in its configuration."""
    for name in ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
        if data[name] < 1:
            problems.append(Problem("must be at least 1", file, name, shorten(data[name])))
    if data["num_blocks"] < 2:
        problems.append(
            Problem("must be at least 2, as one block is never usable", file, "num_blocks", shorten(data["num_blocks"]))
        )
    if data.get("policy", "fcfs") not in ("fcfs", "priority"):
        problems.append(Problem("is not a known policy", file, "policy", repr(data["policy"]), "fcfs, priority"))
    if data.get("watermark", 0.0) >= 1.0:
        problems.append(Problem("must be below 1", file, "watermark", shorten(data["watermark"])))
    _check_adapters(data, file, problems)
    budget, longest = data["max_num_batched_tokens"], data["max_model_len"]
    if budget < data["max_num_seqs"]:
        least = f"must be at least max_num_seqs ({data['max_num_seqs']})"
        problems.append(Problem(least, file, "max_num_batched_tokens", shorten(budget)))
    if not data.get("enable_chunked_prefill", True) and budget < longest:
        least = f"must be at least max_model_len ({longest}) without chunked prefill"
        problems.append(Problem(least, file, "max_num_batched_tokens", shorten(budget)))
    if data.get("long_prefill_token_threshold", 0) > longest:
        most = f"must be at most max_model_len ({longest})"
        got = shorten(data["long_prefill_token_threshold"])
        problems.append(Problem(most, file, "long_prefill_token_threshold", got))


def _check_adapters(data: dict[str, Any], file: str, problems: list[Problem]) -> None:
    if "max_loras" in data:
        if data["max_loras"] < 1:
            problems.append(Problem("must be at least 1", file, "max_loras", shorten(data["max_loras"])))
        if data.get("async_scheduling") or data.get("spec"):
            text = "adapters are modelled with synchronous steps without drafts"
            problems.append(Problem(text, file, "max_loras"))
    elif (named := next((i for i, one in enumerate(data["requests"]) if one.get("adapter", 0)), None)) is not None:
        problems.append(Problem("names an adapter, and the case has no max_loras", file, f"requests[{named}].adapter"))


def _check_fit(data: dict[str, Any], file: str, problems: list[Problem]) -> None:
    """Requests that could never be served."""
    longest, size, usable = data["max_model_len"], data["block_size"], data["num_blocks"] - 1
    drafting = drafting_of(data.get("spec"), [])
    spare = drafting.spare_tokens if drafting is not None else 0
    for i, request in enumerate(data["requests"]):
        if request["prompt"] >= longest:
            message = f"leaves no room for output in max_model_len ({longest})"
            problems.append(Problem(message, file, f"requests[{i}].prompt", shorten(request["prompt"])))
            continue
        tokens = min(min(request["prompt"] + request["output"], longest) - 1 + spare, longest)
        blocks = -(-tokens // size)
        if blocks > usable:
            message = f"needs {blocks} KV blocks of {size} tokens and there are {usable}"
            problems.append(Problem(message, file, f"requests[{i}]", f"{tokens} tokens"))
