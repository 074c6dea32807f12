"""Connections that note when data came, not when somebody got round to reading it.

With thousands of streams many sockets are ready at once, and the task that reads a stream runs only after all of them
were served: a time taken there is late by the work on all the others.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

KEEP_ALIVE_S = 60.0


def connector() -> aiohttp.TCPConnector:
    """Connections without a limit, whose protocol keeps the time of its latest data in `received_s`."""
    import aiohttp
    from aiohttp.client_proto import ResponseHandler

    class Timed(ResponseHandler):
        received_s = float("nan")

        def data_received(self, data: bytes) -> None:
            self.received_s = time.monotonic()
            super().data_received(data)

    found = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    # aiohttp has no public place for a protocol of one's own; without it `received_s` falls back to the clock.
    if hasattr(found, "_factory"):
        factory: Any = functools.partial(Timed, loop=asyncio.get_running_loop())
        found._factory = factory
    return found


def read_time(response: aiohttp.ClientResponse) -> ReadTime:
    """A clock of the data of a response, to be asked for before it ends."""
    connection = response.connection
    return ReadTime(connection.protocol if connection is not None else None)


class ReadTime:
    """When the data that was read last came, seconds of the monotonic clock."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: object) -> None:
        self._protocol = protocol

    def __call__(self) -> float:
        """Seconds; the present where the connection keeps no time."""
        noted: float = getattr(self._protocol, "received_s", float("nan"))
        return noted if noted == noted else time.monotonic()
