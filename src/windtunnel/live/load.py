"""Replay a workload against an endpoint, each request exactly when it is due.

Open loop: a request is sent at its arrival whatever became of the earlier ones. Closed loop and sessions:
a request is due `delay_s` after the one it waits for has finished, as in the simulator. Latencies count from
the moment a request was due, so that a stall delays nobody's clock (coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from windtunnel.live.client import RETRIED, Answer, ask
from windtunnel.live.endpoint import Endpoint
from windtunnel.live.measurement import OK
from windtunnel.live.prompts import Vocabulary, text_prompt, token_prompt
from windtunnel.workload.table import AFTER_ANY, AT_ARRIVAL, RequestTable

if TYPE_CHECKING:
    import aiohttp

Progress = Callable[[int, int, str], None]

AHEAD_S = 0.5
"""A request is got ready up to this long before it is due."""
READY_TOKENS = 20_000_000
"""So many prompt tokens are put into request bodies before the clock starts (about 100 MB); making one later
delays every open stream by the fraction of a millisecond that it takes."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How a load is run.

    Attributes:
        timeout_s: a request that takes longer counts as failed.
        retries: further attempts after a refusal (429, 502, 503, connection refused).
        vocabulary: where token ids are drawn from.
        salt: another salt gives other prompts of the same lengths and sharing.
        words_per_token, extra_tokens: for chat: prompt tokens = words / words_per_token + extra_tokens.
    """

    timeout_s: float = 600.0
    retries: int = 0
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    salt: int = 0
    words_per_token: float = 1.0
    extra_tokens: int = 0


class Load:
    """A load in progress; `records` fills as requests end, and the journal with it."""

    def __init__(
        self,
        table: RequestTable,
        endpoint: Endpoint,
        settings: LoadSettings,
        journal: TextIO | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.table, self.endpoint, self.settings = table, endpoint, settings
        self.records: list[dict[str, Any]] = []
        self.start_s = 0.0
        self._journal, self._progress = journal, progress
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent_all = False
        self._ended = asyncio.Event()
        self._bodies: dict[int, bytes] = {}
        self._after: dict[int, list[int]] = {}
        self._anyone: deque[int] = deque()
        for row, after in enumerate(table.after.tolist()):
            if after == AFTER_ANY:
                self._anyone.append(row)
            elif after != AT_ARRIVAL:
                self._after.setdefault(after, []).append(row)

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Send everything and wait for the last answer; cancelling stops the rest and keeps what came."""
        ready = (self.table.prompt_tokens.cumsum() <= READY_TOKENS).nonzero()[0].tolist()
        self._bodies = {row: self._body(row) for row in ready}
        # Collecting garbage stops every stream at once for tens of milliseconds.
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            self.start_s = time.monotonic()
            for row in (self.table.after == AT_ARRIVAL).nonzero()[0].tolist():
                due_s = self.start_s + float(self.table.arrival_s[row])
                await self._until(due_s - AHEAD_S)
                self._launch(session, row, due_s)
            self._sent_all = True
            if self._tasks:
                await self._ended.wait()
        finally:
            gc.enable()
            gc.unfreeze()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _until(self, moment_s: float) -> None:
        while (wait_s := moment_s - time.monotonic()) > 0:  # a timer may go off a little early
            await asyncio.sleep(wait_s)

    def _launch(self, session: aiohttp.ClientSession, row: int, due_s: float) -> None:
        task = asyncio.create_task(self._one(session, row, due_s))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._sent_all and not self._tasks:
            self._ended.set()

    async def _one(self, session: aiohttp.ClientSession, row: int, due_s: float) -> None:
        output_tokens = int(self.table.output_tokens[row])
        body = self._bodies.pop(row, b"") or self._body(row)
        await self._until(due_s)
        attempts = 0
        while True:
            attempts += 1
            answer = await ask(session, self.endpoint, body, output_tokens, self.settings.timeout_s)
            if answer.status not in RETRIED or attempts > self.settings.retries:
                break
            await asyncio.sleep(max(answer.retry_after_s, min(0.1 * 2**attempts, 10.0)))
        self._keep(row, due_s, attempts, answer)
        ended_s = time.monotonic()
        for following in self._after.pop(row, ()):
            self._launch(session, following, self._due(following, ended_s))
        if self._anyone:
            following = self._anyone.popleft()
            self._launch(session, following, self._due(following, ended_s))

    def _due(self, row: int, ended_s: float) -> float:
        return max(self.start_s + float(self.table.arrival_s[row]), ended_s + float(self.table.delay_s[row]))

    def _body(self, row: int) -> bytes:
        chosen = self.settings
        prompt: list[int] | str
        if self.endpoint.kind == "completions":
            prompt = token_prompt(self.table, row, chosen.vocabulary, chosen.salt)
        else:
            tokens = max(int(self.table.prompt_tokens[row]) - chosen.extra_tokens, 1)
            prompt = text_prompt(self.table, row, max(round(tokens * chosen.words_per_token), 1), chosen.salt)
        return self.endpoint.body(prompt, int(self.table.output_tokens[row]))

    def _keep(self, row: int, due_s: float, attempts: int, answer: Answer) -> None:
        token_s = [round(moment_s - self.start_s, 6) for moment_s in answer.token_s]
        record: dict[str, Any] = {
            "row": row,
            "due_s": round(due_s - self.start_s, 6),
            "sent_s": round(answer.sent_s - self.start_s, 6),
            "first_token_s": token_s[0] if token_s else None,
            "finish_s": token_s[-1] if token_s and answer.status == OK else None,
            "prompt_tokens": int(self.table.prompt_tokens[row]),
            "output_tokens": int(self.table.output_tokens[row]),
            "prompt_reported": answer.prompt_reported,
            "output_received": max(answer.output_reported, len(token_s)) if token_s else 0,
            "attempts": attempts,
            "status": answer.status,
            "finish_reason": answer.finish_reason,
            "message": answer.message,
            "token_s": token_s,
        }
        if self.table.shares_prefixes:
            a, b = self.table.segment_offset[row : row + 2].tolist()
            ids, tokens = self.table.segment_id[a:b].tolist(), self.table.segment_tokens[a:b].tolist()
            record["segments"] = [[i, n] for i, n in zip(ids, tokens, strict=True)]
        self.records.append(record)
        if self._journal is not None:
            self._journal.write(json.dumps(record, separators=(",", ":")) + "\n")
            self._journal.flush()
        if self._progress is not None:
            self._progress(len(self.records), len(self.table), f"{len(self._tasks):,} in flight")


def open_journal(folder: Path) -> TextIO:
    """The journal of a new run.

    One line per request is written and flushed as it ends, so that a killed run loses nothing that ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "journal.jsonl").open("w", encoding="utf-8")
