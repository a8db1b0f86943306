"""Each state has a time-out, and it counts against the side whose turn it is."""

from __future__ import annotations

import array
import fcntl
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.client import Client
from support.origin import Exchange
from support.rig import Rig, unique
from support.waiting import eventually
from support.wire import get, request

PIECE = b"x" * 16384


@pytest.fixture
def patient() -> Iterator[Rig]:
    """Time-outs of a second: long enough to look at what waits, before one of them fires."""
    rig = Rig(timeouts={"response": "1s", "idle": "1s"}).start()
    yield rig
    rig.stop()


def unread(client: Client) -> int:
    """Bytes that wait in the client's socket."""
    count = array.array("i", [0])
    fcntl.ioctl(client.sock.fileno(), termios.FIONREAD, count)
    return count[0]


def settled(clients: list[Client]) -> None:
    """Returns once nothing more arrives at any of the clients, none of which reads."""
    last: list[int] = []
    since = time.monotonic()

    def still() -> bool:
        nonlocal last, since
        now = [unread(client) for client in clients]
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.1

    eventually(still, "the clients' sockets to fill", within=5)


def test_origin_that_falls_silent_while_the_client_is_slow(patient: Rig) -> None:
    """What the origin sent fills the client's socket and stops in the proxy; the client then reads it all,
    and the rest never comes. One of the sizes is such that the proxy holds the last of it when the client
    begins to read."""
    path = unique()
    release = threading.Event()
    sizes = range(64, 640, 32)

    def handler(exchange: Exchange) -> None:
        size = int(exchange.request.target.partition("?")[2]) << 10
        exchange.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (size * 2) + b"x" * size
        )
        release.wait(20)

    with patient.origin.answering(path, handler):
        clients = [patient.client(unix=True) for _ in sizes]
        for client, size in zip(clients, sizes, strict=True):
            client.send(get(f"{path}?{size}"))
        settled(clients)
        with ThreadPoolExecutor(len(clients)) as threads:  # at once: none of them may wait for its turn
            responses = list(threads.map(Client.read_response, clients))
        release.set()
        for client, size, response in zip(clients, sizes, responses, strict=True):
            assert response.truncated == "eof", f"size {size} KiB"
            assert len(response.body) == size << 10
            client.close()
    patient.sentinels()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_origin_that_takes_no_body_is_the_one_that_is_late(patient: Rig, framing: str) -> None:
    path = unique()
    release = threading.Event()

    def handler(exchange: Exchange) -> None:
        release.wait(20)

    field = b"Content-Length: 67108864" if framing == "length" else b"Transfer-Encoding: chunked"
    with patient.origin.answering(path, handler), patient.client() as client:
        client.send(request("POST", path, field))
        stop = threading.Event()

        def upload() -> None:
            try:
                while not stop.is_set():
                    client.sock.sendall(b"4000\r\n" + PIECE + b"\r\n" if framing == "chunked" else PIECE)
            except OSError:
                pass

        thread = threading.Thread(target=upload, daemon=True)
        thread.start()
        response = client.read_response("POST")
        stop.set()
        release.set()
        assert (response.status, response.error_code) == (504, "upstream_timeout")
        client.close()
        thread.join(5)
    patient.sentinels()
