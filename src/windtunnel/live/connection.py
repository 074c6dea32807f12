"""Sockets that note when data reached the machine, not when somebody got round to reading it.

With thousands of streams many sockets are ready at once: the last one is read only after the work on all the others,
and on a busy machine the whole process waits for a core. Linux notes when each packet came, long before anyone reads
it; elsewhere the moment of the read has to do.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp
    from _typeshed import WriteableBuffer

KEEP_ALIVE_S = 60.0
SO_TIMESTAMPNS = 35
"""Linux, asm-generic/socket.h: a read also tells when its latest packet came, as a timespec of the wall clock in the
machine's longs. Python has no name for it."""
TIMESPEC = struct.Struct("@ll")
STAMP_BYTES = socket.CMSG_SPACE(TIMESPEC.size) if sys.platform == "linux" else 0
READ_BYTES = 1 << 16
"""Most bytes of a read. The 256 KiB that asyncio asks for are got from and given back to the system every time."""


class StampedSocket(socket.socket):
    """A socket that keeps when its latest data came.

    Attributes:
        received_s: seconds of the monotonic clock; nan before the first data, and where the event loop reads sockets
            by other ways than their methods.
    """

    received_s = float("nan")
    _latest_s = 0.0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Read, as any socket does."""
        if not STAMP_BYTES:
            data = super().recv(bufsize, flags)
            self.received_s = time.monotonic()
            return data
        data, ancillary, _, _ = self.recvmsg(min(bufsize, READ_BYTES), STAMP_BYTES, flags)
        self._note(ancillary)
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Read into a buffer, as connections with TLS do."""
        if not STAMP_BYTES:
            size = super().recv_into(buffer, nbytes, flags)
            self.received_s = time.monotonic()
            return size
        size, ancillary, _, _ = self.recvmsg_into([memoryview(buffer)[: nbytes or None]], STAMP_BYTES, flags)
        self._note(ancillary)
        return size

    def _note(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Take the kernel's stamp out of what came with a read, the present where there is none."""
        now_s = self.received_s = time.monotonic()
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) >= TIMESPEC.size:
                seconds, nanoseconds = TIMESPEC.unpack_from(data)
                ago_s = (time.time_ns() - seconds * 1_000_000_000 - nanoseconds) * 1e-9
                # What came before the last read was read by it: a wall clock that was set in between is found out.
                self.received_s = max(now_s - max(ago_s, 0.0), self._latest_s)
        self._latest_s = now_s


_open: weakref.WeakValueDictionary[int, StampedSocket] = weakref.WeakValueDictionary()
"""The sockets by their descriptors, for transports give only copies of them."""


def stamped(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address (family, type, protocol, ...)."""
    made = StampedSocket(*address[:3])
    if STAMP_BYTES:
        with contextlib.suppress(OSError):  # a kernel without it
            made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    _open[made.fileno()] = made
    return made


def connector() -> aiohttp.TCPConnector:
    """Connections without a limit, over stamped sockets."""
    import aiohttp

    return aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=stamped)


def read_time(response: aiohttp.ClientResponse) -> ReadTime:
    """A clock of the data of a response, to be asked for before it ends."""
    transport = response.connection.transport if response.connection is not None else None
    found = transport.get_extra_info("socket") if transport is not None else None
    return ReadTime(_open.get(found.fileno()) if found is not None else None)


class ReadTime:
    """When the data that was read last came, seconds of the monotonic clock."""

    __slots__ = ("_socket",)

    def __init__(self, stamped: StampedSocket | None) -> None:
        self._socket = stamped

    def __call__(self) -> float:
        """Seconds; the present where the connection keeps no time."""
        noted = self._socket.received_s if self._socket is not None else float("nan")
        return noted if noted == noted else time.monotonic()
