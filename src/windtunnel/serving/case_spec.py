"""Speculative tokens in scheduler cases: the field `spec` and what becomes of each request's drafts."""

from __future__ import annotations

from typing import Any

from windtunnel.errors import Problem, nearest, shorten
from windtunnel.serving.drafting import Drafting

METHODS = ("ngram", "eagle", "draft_model")
"""Drafters whose needs differ for the scheduler."""

OUTCOME_FIELDS = ("accepted", "proposed")
_FIELDS = ("method", "num_tokens", "parallel", "per_batch_size")
_MOST_TOKENS = 1024


def spec_problems(spec: Any, file: str) -> list[Problem]:
    """Mistakes in the form of `spec`."""
    if spec is None:
        return []
    if not isinstance(spec, dict):
        return [Problem("must be an object", file, "spec", shorten(spec))]
    problems = [
        Problem("is not a known field", file, f"spec.{name}", nearest=nearest(name, _FIELDS))
        for name in spec
        if name not in _FIELDS
    ]
    if spec.get("method") not in METHODS:
        problems.append(
            Problem("is not a known method", file, "spec.method", shorten(spec.get("method")), ", ".join(METHODS))
        )
    if not _whole(spec.get("num_tokens")) or not 1 <= spec["num_tokens"] <= _MOST_TOKENS:
        text = f"must be a whole number from 1 to {_MOST_TOKENS}"
        problems.append(Problem(text, file, "spec.num_tokens", shorten(spec.get("num_tokens"))))
    if not isinstance(spec.get("parallel", False), bool):
        problems.append(Problem("must be true or false", file, "spec.parallel", shorten(spec["parallel"])))
    if spec.get("parallel") is True and spec.get("method") == "ngram":
        problems.append(Problem("is for drafters with a model", file, "spec.parallel"))
    if not problems and not _ranges_right(spec.get("per_batch_size"), spec["num_tokens"]):
        text = "must be a list of [first, last, tokens] from 1 request on, in order, without overlap"
        problems.append(Problem(text, file, "spec.per_batch_size", shorten(spec["per_batch_size"])))
    return problems


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ranges_right(ranges: Any, most: int) -> bool:
    if ranges is None:
        return True
    if not isinstance(ranges, list) or not ranges:
        return False
    before = 0
    for entry in ranges:
        if not isinstance(entry, list) or len(entry) != 3 or not all(map(_whole, entry)):
            return False
        first, last, tokens = entry
        if not (before < first <= last and 0 <= tokens <= most):
            return False
        before = last
    return bool(ranges[0][0] == 1)


def outcome_problems(request: dict[str, Any], where: str, file: str) -> list[Problem]:
    """Mistakes in a request's `accepted` and `proposed`."""
    return [
        Problem("must be a list of whole numbers from 0 on", file, f"{where}.{name}", shorten(request[name]))
        for name in OUTCOME_FIELDS
        if name in request
        and not (isinstance(request[name], list) and request[name] and all(_whole(n) and n >= 0 for n in request[name]))
    ]


def spec_limit_problems(data: dict[str, Any], file: str) -> list[Problem]:
    """Drafts that the other settings leave no room for."""
    drafting = drafting_of(data.get("spec"), [])
    if drafting is None:
        return []
    problems = []
    least = 1 + drafting.tokens + drafting.slots
    if data["max_num_batched_tokens"] < least:
        text = f"must be at least {least} for one request with its drafts"
        problems.append(Problem(text, file, "max_num_batched_tokens", shorten(data["max_num_batched_tokens"])))
    if 0 < data.get("long_prefill_token_threshold", 0) <= drafting.tokens:
        text = f"must be 0 or above spec.num_tokens ({drafting.tokens})"
        problems.append(Problem(text, file, "long_prefill_token_threshold"))
    return problems


def drafting_of(spec: dict[str, Any] | None, requests: list[dict[str, Any]]) -> Drafting | None:
    """What the scheduler makes of `spec` (vLLM 0.32, config/vllm.py and config/speculative.py)."""
    if spec is None:
        return None
    method, tokens = spec["method"], spec["num_tokens"]
    return Drafting(
        tokens=tokens,
        lookahead=0 if method == "ngram" else tokens,
        slots=drafting_slots(method, tokens, spec.get("parallel", False)),
        drop_block=method == "eagle",
        by_batch=_by_batch(spec.get("per_batch_size")),
        outcomes=tuple(_outcomes(request) for request in requests),
    )


def drafting_slots(method: str, tokens: int, parallel: bool) -> int:
    """Slots of the step's budget that drafting takes per request beside its own tokens.

    A draft model keeps the last token beside the shifted input; drafting all tokens in one pass
    takes a slot for each (one less where the pass reuses the input).
    """
    if method == "draft_model":
        return tokens if parallel else 1
    return tokens - 1 if parallel and method == "eagle" else 0


def _by_batch(ranges: list[list[int]] | None) -> tuple[int, ...]:
    """Tokens by the number of requests, from 0 on; gaps take the value before them."""
    lengths: list[int] = []
    for first, last, tokens in ranges or ():
        lengths += [lengths[-1] if lengths else tokens] * (first - len(lengths))
        lengths += [tokens] * (last + 1 - len(lengths))
    return tuple(lengths)


def _outcomes(request: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    accepted = request.get("accepted", [0])
    proposed = request.get("proposed", [-1])
    count = len(accepted) * len(proposed)
    return tuple((accepted[n % len(accepted)], proposed[n % len(proposed)]) for n in range(count))
