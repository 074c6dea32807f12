from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from live.stub import Behaviour, running
from windtunnel.live.bench import Bench, bench
from windtunnel.live.connection import STAMP_BYTES, StampedSocket, stamped
from windtunnel.live.endpoint import Endpoint
from windtunnel.workload.table import request_table

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when data came")
Pair = tuple[StampedSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A stamped socket, and the server's end of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = stamped((socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname()))
        assert isinstance(client, StampedSocket)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.settimeout(10)
            for _ in range(200):  # the kernel begins to stamp a little after it was asked to
                server.sendall(b".")
                if client.recvmsg(1, STAMP_BYTES)[1] or not STAMP_BYTES:
                    break
                time.sleep(0.01)
            yield client, server


def sent(server: socket.socket, data: bytes = b"token") -> tuple[float, float]:
    """The moments before and after sending."""
    before_s = time.monotonic()
    server.sendall(data)
    return before_s, time.monotonic()


@linux
@pytest.mark.parametrize("into", [False, True])
def test_a_late_read_has_the_time_at_which_the_data_came(pair: Pair, into: bool) -> None:
    client, server = pair
    for _ in range(3):
        before_s, after_s = sent(server)
        time.sleep(0.1)
        buffer = bytearray(100)
        data = bytes(buffer[: client.recv_into(buffer)]) if into else client.recv(1 << 20)
        assert data == b"token"
        # The end of the loopback is one system; two clocks are read one after the other.
        assert before_s - 1e-3 <= client.received_s <= after_s + 20e-3


def test_the_end_of_a_connection_and_parts_of_data_are_read_as_ever(pair: Pair) -> None:
    client, server = pair
    server.sendall(b"abcdef")
    server.close()
    buffer = bytearray(8)
    assert client.recv(2) == b"ab"
    assert client.recv_into(buffer, 3) == 3
    assert client.recv_into(buffer) == 1
    assert bytes(buffer) == b"fde\0\0\0\0\0"
    before_s = time.monotonic()
    assert client.recv(10) == b""
    assert client.recv_into(buffer) == 0
    assert client.received_s >= before_s


@linux
@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_wall_clock_set_between_arrival_and_read_moves_a_stamp_only_between_two_reads(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    client, server = pair
    sent(server)
    client.recv(100)
    first_s = time.monotonic()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + jump_s * 1_000_000_000)
    sent(server)
    client.recv(100)
    assert first_s - 5e-3 <= client.received_s <= time.monotonic()


@pytest.mark.parametrize("nothing", [[], [(socket.SOL_SOCKET, 1, b"12345678")]])
def test_without_the_kernels_stamp_the_moment_of_the_read_counts(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, nothing: list[tuple[int, int, bytes]]
) -> None:
    client, server = pair
    monkeypatch.setattr(StampedSocket, "recvmsg", lambda self, size, *_: (b"token", nothing, 0, None))
    sent(server)
    before_s = time.monotonic()
    assert client.recv(100) == b"token"
    assert before_s <= client.received_s <= time.monotonic()


@linux
def test_a_client_that_is_held_up_still_says_when_tokens_came() -> None:
    """The client stops for 30 ms whenever a request ends; tokens of the others come meanwhile."""
    table = request_table(np.arange(12) * 0.06, 1 + np.arange(12), np.full(12, 6))
    with running(Behaviour(gap_s=0.1)) as stub:
        measured = bench(Bench(table, Endpoint(stub.url), warmup=0), lambda *_: time.sleep(0.03))
        written = {length: after for length, _read_s, _before, after in stub.moments}
    assert measured.ok.all()
    after_s = np.concatenate([written[int(length)] for length in measured.prompt_tokens])
    late_s = measured.token_s + float(measured.meta["clock_s"]) - after_s
    # Stamps of the reading would be late by 15 ms in every second case.
    assert np.quantile(late_s, 0.9) < 5e-3
