"""One request: sent, streamed and timed token by token."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windtunnel.live.connection import ReadTime, read_time
from windtunnel.live.endpoint import Endpoint, refusal
from windtunnel.live.events import EventDecoder
from windtunnel.live.measurement import OK

if TYPE_CHECKING:
    import aiohttp

RETRIED = ("http 429", "http 503", "http 502", "refused")
"""Failures that another attempt may mend."""


@dataclass(slots=True)
class Answer:
    """What came back. Times are of the monotonic clock, seconds."""

    sent_s: float = float("nan")
    token_s: list[float] = field(default_factory=list)
    prompt_reported: int = -1
    output_reported: int = -1
    finish_reason: str = ""
    status: str = ""
    message: str = ""
    retry_after_s: float = 0.0


async def ask(
    session: aiohttp.ClientSession, endpoint: Endpoint, body: bytes, output_tokens: int, timeout_s: float
) -> Answer:
    """Send one request and read its stream to the end. Never raises for what a server or network does."""
    import aiohttp

    answer = Answer()
    headers = {"Content-Type": "application/json", **endpoint.headers}
    try:
        async with asyncio.timeout(timeout_s):
            answer.sent_s = time.monotonic()
            async with session.post(endpoint.path, data=body, headers=headers) as response:
                if response.status != 200:
                    answer.status = f"http {response.status}"
                    answer.message = refusal(await response.text(errors="replace"))
                    answer.retry_after_s = _seconds(response.headers.get("Retry-After", ""))
                    return answer
                ended = await _read(response.content, answer, read_time(response))
        answer.status = _outcome(answer, ended, output_tokens)
    except TimeoutError:
        answer.status = "timeout"
    except aiohttp.ClientConnectorError as error:
        answer.status, answer.message = "refused", str(error)
    except (aiohttp.ClientError, ConnectionError, OSError) as error:
        answer.status, answer.message = "closed early", str(error) or type(error).__name__
    return answer


async def _read(stream: aiohttp.StreamReader, answer: Answer, clock: ReadTime) -> bool:
    """Take the stream's events. Returns whether it ended as it should."""
    decoder = EventDecoder()
    done = False
    async for chunk in stream.iter_any():
        now_s = clock()
        for event in decoder.feed(chunk):
            if event.strip() == b"[DONE]":
                done = True
            else:
                _take(event, answer, now_s)
    return (done or bool(answer.finish_reason)) and not decoder.unfinished


def _take(event: bytes, answer: Answer, now_s: float) -> None:
    """Note one event: its tokens carry the time at which the chunk came."""
    try:
        found = json.loads(event)
    except ValueError:
        answer.status, answer.message = "broken stream", repr(event[:80])
        return
    if "error" in found:
        answer.status, answer.message = "error in stream", refusal(event.decode(errors="replace"))
        return
    usage = found.get("usage") or {}
    if usage:
        answer.prompt_reported = int(usage.get("prompt_tokens", answer.prompt_reported))
    new = 1 if _has_text(found) else 0
    if "completion_tokens" in usage:
        answer.output_reported = int(usage["completion_tokens"])
        # A last chunk with the totals alone tells nothing of when the tokens came.
        new = max(answer.output_reported - len(answer.token_s), new) if found.get("choices") else 0
    answer.token_s.extend([now_s] * new)
    for choice in found.get("choices") or ():
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason


def _has_text(found: dict[str, Any]) -> bool:
    """Whether a chunk carries generated text (the first chunk of a chat names the role alone)."""
    for choice in found.get("choices") or ():
        delta = choice.get("delta")
        if delta is None:
            return bool(choice.get("text")) or bool(choice.get("token_ids"))
        if any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls")):
            return True
    return False


def _outcome(answer: Answer, ended: bool, output_tokens: int) -> str:
    """The status of a stream that was read to its end."""
    if answer.status:
        return answer.status
    if not ended:
        return "closed early"
    if not answer.token_s:
        return "no tokens"
    if len(answer.token_s) > output_tokens:
        return "more tokens than asked"
    return OK


def _seconds(text: str) -> float:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return 0.0
