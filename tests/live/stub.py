"""A small server for the protocol's edges: it says what a real one would, or misbehaves as told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Behaviour:
    """How one request is answered."""

    status: int = 200
    gap_s: float = 0.001
    tokens: int | None = None  # None: as many as asked
    per_chunk: int = 1
    pieces: bool = False  # every write cut in two
    close_after: int | None = None  # tokens after which the connection drops
    broken: bool = False
    error: bool = False
    usage: bool = True
    headers: str = ""


@dataclass
class Stub:
    """The running server's address, and what it was asked."""

    answer: Callable[[int, dict[str, Any]], Behaviour]
    port: int = 0
    models: tuple[str, ...] = ("tiny",)
    gauges: str = ""
    refuses: tuple[str, ...] = ()
    bodies: list[dict[str, Any]] = field(default_factory=list)
    stop: Callable[[], object] = lambda: None  # ends the server
    # Of each request the prompt's length, when it was read, and the moments before and after each token's writing.
    moments: list[tuple[int, float, list[float], list[float]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else b""
                if head.startswith(b"GET"):
                    self._get(head, writer)
                elif not await self._post(json.loads(body), writer):
                    break
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _get(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET /v1/models"):
            _plain(writer, 200, json.dumps({"data": [{"id": name} for name in self.models]}))
        elif head.startswith(b"GET /metrics") and self.gauges:
            _plain(writer, 200, self.gauges)
        else:
            _plain(writer, 404, "{}")

    async def _post(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        for name in self.refuses:
            if name in asked:
                _plain(writer, 400, json.dumps({"error": {"message": f"unknown field {name}"}}))
                return True
        index = len(self.bodies)
        self.bodies.append(asked)
        before: list[float] = []
        after: list[float] = []
        self.moments.append((len(asked.get("prompt") or ()), time.monotonic(), before, after))
        how = self.answer(index, asked)
        if how.status != 200:
            _plain(writer, how.status, json.dumps({"error": {"message": "no"}}), how.headers)
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        count = asked["max_tokens"] if how.tokens is None else how.tokens
        prompt = asked.get("prompt") or asked["messages"][0]["content"].split()
        sent = 0
        while sent < count:
            await asyncio.sleep(how.gap_s)
            if how.close_after is not None and sent >= how.close_after:
                writer.close()
                return False
            new = min(how.per_chunk, count - sent)
            sent += new
            event = _event(asked, prompt, sent, sent == count, how)
            before += [time.monotonic()] * new
            await _chunk(writer, event, how.pieces)
            after += [time.monotonic()] * new
        if how.error:
            await _chunk(writer, b'data: {"error": {"message": "engine died"}}\n\n', False)
        if how.broken:
            await _chunk(writer, b"data: {nonsense\n\n", False)
        await _chunk(writer, b"data: [DONE]\n\n", how.pieces)
        writer.write(b"0\r\n\r\n")
        return True


def _event(asked: dict[str, Any], prompt: list[Any], sent: int, last: bool, how: Behaviour) -> bytes:
    choice: dict[str, Any] = {"finish_reason": ("length" if sent == asked["max_tokens"] else "stop") if last else None}
    if "messages" in asked:
        choice["delta"] = {"content": "x"}
    else:
        choice["text"] = "x"
    event: dict[str, Any] = {"choices": [choice]}
    if how.usage:
        extra = 5 if "messages" in asked else 0
        event["usage"] = {"prompt_tokens": len(prompt) + extra, "completion_tokens": sent}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _plain(writer: asyncio.StreamWriter, status: int, text: str, headers: str = "") -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status} X\r\n{headers}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _chunk(writer: asyncio.StreamWriter, data: bytes, pieces: bool) -> None:
    whole = f"{len(data):x}\r\n".encode() + data + b"\r\n"
    if pieces:
        writer.write(whole[: len(whole) // 2])
        await writer.drain()
        await asyncio.sleep(0.002)
        whole = whole[len(whole) // 2 :]
    writer.write(whole)
    await writer.drain()


@contextmanager
def running(
    answer: Callable[[int, dict[str, Any]], Behaviour] | Behaviour | None = None, **more: Any
) -> Iterator[Stub]:
    """The server in a thread of its own for as long as the block lasts."""
    fixed = answer if isinstance(answer, Behaviour) else Behaviour()
    stub = Stub(answer if callable(answer) else lambda _index, _asked: fixed, **more)
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, backlog=1024, limit=1 << 24)
        stub.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed transports are let go in the loop's next rounds

    stop = asyncio.Event()
    stub.stop = lambda: loop.call_soon_threadsafe(stop.set)
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield stub
    finally:
        if not loop.is_closed() and thread.is_alive():
            stub.stop()
        thread.join(10)
        loop.close()
